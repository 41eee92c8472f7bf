"""What the relay has, against what the database says: every accepted message exactly once, octet for octet."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mail_orchestration.cli.demo_relay import stored_message
from mail_orchestration.composition.compression import Compressor
from mail_orchestration.dispatch.message_store import read_message
from mail_orchestration.feedback.books import Books
from mail_orchestration.installation import Installation


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The two sides, compared message by message."""

    stored_by_relay: int
    accepted: int
    twice: int
    altered: int
    """At the relay with other octets than those assembled."""
    missing: int
    """Neither at the relay nor refused by it."""
    unexpected: int
    """At the relay although it was refused, or never assembled."""

    @property
    def holds(self) -> bool:
        """Every accepted message is there once, as it was assembled, and nothing else is."""
        return self.stored_by_relay == self.accepted and not (
            self.twice or self.altered or self.missing or self.unexpected
        )


def prove(inst: Installation, release_id: int, relay_folder: Path, books: Books) -> Proof:
    """Compare each file of the relay with the stored message of its recipient.

    Whom the demo's relay refuses follows from the address, so that who must be there is known without our results.
    """
    relay: dict[str, bytes] = {}
    times: Counter[str] = Counter()
    for file in (relay_folder / "new").iterdir():
        address, data = stored_message(file)
        times[address] += 1
        relay[address] = hashlib.sha256(data).digest()
    altered = missing = refused_but_there = 0
    with inst.database.begin() as connection:
        compressor: Compressor | None = None
        for number in range(1, books.assembled + books.expired + 1):
            stored = read_message(connection, release_id, message_no=number)
            compressor = compressor or Compressor(stored.dictionary or b"")
            found = relay.pop(stored.address, None)
            is_refused = stored.address.startswith(("gone", "full"))
            if found is None:
                missing += not is_refused
            elif is_refused:
                refused_but_there += 1
            else:
                data, _ = compressor.read(stored.block, stored.place_in_block)
                altered += found != hashlib.sha256(data).digest()
    return Proof(
        stored_by_relay=times.total(),
        accepted=books.accepted,
        twice=sum(count - 1 for count in times.values()),
        altered=altered,
        missing=missing,
        unexpected=refused_but_there + len(relay),
    )

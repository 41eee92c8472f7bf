"""Loose mails in a worker's hands: reserved in their order, given back (spec 6.2, 6.3).

A reservation is a lease with a fence: every write about a loose mail names the fence under which it was reserved, and
each reservation raises it. So whoever comes back after its time is over writes nothing (spec 6.3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row

from mail_orchestration.dispatch.holds import is_held
from mail_orchestration.dispatch.message_store import read_blocks
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.kernel.loose_mail_states import LooseMailKind
from mail_orchestration.kernel.partitions import ensure_day
from mail_orchestration.kernel.statements import STATEMENTS

MOST_RUN_OUTS = 3
"""Reservations of a mail that run out in a row, before it is a dead letter. The first may be another's fault, whom the
worker had in hand with it; from then on it is taken alone."""
RESERVED_OCTETS = 16 * 1024 * 1024
"""Of messages as they are stored, a retry with its whole block, that are reserved at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageOfRelease:
    """What a retry sends again: one stored message of a release."""

    released_on: date
    release_id: int
    message_no: int
    mail_job_id: int
    """Whose result the last one was; the next one is recorded under it too."""
    result_no: int
    recipient_no: int | None
    """None where the stored message is past retention."""
    size: int | None
    place_in_block: int | None
    block: bytes | None
    """The message and its neighbours, compressed against the release's dictionary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservedMail:
    """One loose mail in a worker's hands, SENDING."""

    loose_mail_id: int
    kind: LooseMailKind
    attempts: int
    """Those that were made before."""
    run_outs: int
    """Reservations of it that ran out, in a row: above 0 it may be what ended its workers."""
    last_outcome: Outcome | None
    """That of the last of them; of a retry always."""
    fence: int
    expires_at: datetime | None
    campaign_id: int
    contact_id: int
    address: str
    suppressed_because: str | None
    """Why its contact must not be written to, at the moment of the reservation."""
    message: bytes | None
    """Of a mail of its own: what was composed at the first attempt, compressed."""
    size: int | None
    """Octets of that, composed."""
    frozen_campaign_id: int | None
    """Of a mail of its own: what it is composed from, as `attributes`."""
    attributes: Mapping[str, Any] | None
    of_release: MessageOfRelease | None
    """Of a retry."""
    reserved_at: float
    """This host's steady clock, in seconds, from before the reservation: the lease counts from here."""

    def reserved_again(self, at: float) -> ReservedMail:
        """The same with a longer lease, which counts from `at`."""
        return replace(self, reserved_at=at)


def end_run_out_reservations(connection: Connection, installation_id: int, now: datetime) -> int:
    """SENDING → QUEUED, or as was asked for, where the worker let its reservation run out; how many.

    SENDING → FAILED of what did so MOST_RUN_OUTS times in a row: a mail that ends each worker that takes it would go on
    doing so for ever.
    """
    binds = {
        "installation_id": installation_id,
        "now": now,
        "most_run_outs": MOST_RUN_OUTS,
        "code": FailureCode.IO_EXCEPTION,
        "description": f"its worker ended without a word, or was silent for too long, {MOST_RUN_OUTS} times in a row",
    }
    return connection.execute(STATEMENTS["end_run_out_reservations"], binds).rowcount


def reserve_loose_mails(
    connection: Connection,
    installation_id: int,
    worker: str,
    *,
    kinds: Collection[LooseMailKind],
    most: int,
    for_s: float,
    now: datetime,
    began: float,
    is_free: bool = True,
) -> list[ReservedMail]:
    """QUEUED → SENDING for at most `most` loose mails, reserved for `for_s` seconds, in the order in which they go.

    At most RESERVED_OCTETS of them as they are stored, or a single larger one. One whose reservation ran out before
    comes alone; a worker that is not `is_free`, which has others in hand, gets nothing when such a one is next. `began`
    is this host's steady clock from before `now` was told.

    What has come to its time is made QUEUED first, also what a silent worker had reserved. Nothing while sending is
    held. Needs a transaction of the caller.
    """
    if is_held(connection, installation_id):
        return []
    whose = {"installation_id": installation_id, "now": now}
    end_run_out_reservations(connection, installation_id, now)
    connection.execute(STATEMENTS["queue_due_loose_mails"], whose)
    what = {
        "worker": worker,
        "kinds": _values(kinds),
        "most": most,
        "most_octets": RESERVED_OCTETS,
        "for_s": for_s,
        "is_free": is_free,
    }
    rows = connection.execute(STATEMENTS["reserve_loose_mails"], {**whose, **what}).all()
    blocks = _blocks(connection, rows)
    return [
        ReservedMail(
            loose_mail_id=row.loose_mail_id,
            kind=LooseMailKind(row.kind),
            attempts=row.attempts,
            run_outs=row.run_outs,
            last_outcome=None if row.last_outcome is None else Outcome(row.last_outcome),
            fence=row.fence,
            expires_at=row.expires_at,
            campaign_id=row.campaign_id,
            contact_id=row.contact_id,
            address=row.address,
            suppressed_because=row.suppressed_because,
            message=row.message,
            size=row.size,
            frozen_campaign_id=row.frozen_campaign_id,
            attributes=row.attributes,
            of_release=None
            if row.release_id is None
            else MessageOfRelease(
                released_on=row.released_on,
                release_id=row.release_id,
                message_no=row.message_no,
                mail_job_id=row.mail_job_id,
                result_no=row.result_no,
                recipient_no=row.recipient_no,
                size=row.stored_size,
                place_in_block=row.place_in_block,
                block=blocks.get((row.release_id, row.first_of_block)),
            ),
            reserved_at=began,
        )
        for row in rows
    ]


def renew_reservations(
    connection: Connection, mails: Sequence[ReservedMail], *, for_s: float, now: datetime
) -> set[int]:
    """Keep these for `for_s` seconds from now. Returns the numbers of those that are still in this worker's hands."""
    binds = {**_held(mails), "for_s": for_s, "now": now}
    return set(connection.scalars(STATEMENTS["renew_reservations"], binds))


def give_back(connection: Connection, mails: Sequence[ReservedMail]) -> int:
    """SENDING → QUEUED of what was not attempted; no attempt is counted. Returns how many were still held."""
    return len(connection.scalars(STATEMENTS["give_back_loose_mails"], _held(mails)).all())


def has_due_loose_mails(
    connection: Connection, installation_id: int, kinds: Collection[LooseMailKind], now: datetime
) -> bool:
    """Whether a worker would find something of these kinds to send. Cheap, and locks nothing."""
    due = connection.execute(
        STATEMENTS["has_due_loose_mails"],
        {"installation_id": installation_id, "kinds": _values(kinds), "now": now},
    )
    return bool(due.scalar_one())


def ensure_delivery_log(connection: Connection, now: datetime) -> date:
    """Make the delivery log of today and tomorrow (in UTC) where it is missing. Returns tomorrow: call again then."""
    today = now.date()
    tomorrow = today + timedelta(days=1)
    for day in (today, tomorrow):
        ensure_day(connection, day)
    return tomorrow


def _blocks(connection: Connection, rows: Sequence[Row[Any]]) -> dict[tuple[int, int], bytes]:
    """What retries say, by their release and the first message of their block: each block once."""
    firsts: dict[tuple[date, int], set[int]] = defaultdict(set)
    for row in rows:
        if row.first_of_block is not None:
            firsts[row.released_on, row.release_id].add(row.first_of_block)
    return {
        (release_id, first): block
        for (released_on, release_id), of_one in firsts.items()
        for first, block in read_blocks(connection, released_on, release_id, of_one).items()
    }


def _values(members: Collection[StrEnum]) -> list[str]:
    return sorted(member.value for member in members)


def _held(mails: Sequence[ReservedMail]) -> dict[str, list[int]]:
    return {
        "loose_mail_ids": [mail.loose_mail_id for mail in mails],
        "fences": [mail.fence for mail in mails],
    }

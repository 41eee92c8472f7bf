"""Assembled messages and the reasons of those that have none, written by COPY and read back exactly (spec
2.7).

A release's messages are numbered 1, 2, 3 … without gaps; figures on the release and rows of the big tables
change in the same transaction, so that an assembly that was cut off goes on after `release.assembled_up_to`. What
messages say is in blocks of neighbours, each written with the rows of its messages.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple

from sqlalchemy import Connection

from mail_orchestration.kernel.addresses import address_key
from mail_orchestration.kernel.bulk import copy_rows, read_binary
from mail_orchestration.kernel.errors import NotFound, StateConflict
from mail_orchestration.kernel.model import Bypass
from mail_orchestration.kernel.statements import STATEMENTS

_MESSAGE_TYPES = ("date", "int8", "int4", "int4", "int8", "int4", "int2", "text")
_BLOCK_TYPES = ("date", "int8", "int4", "bytea")
_BYPASS_TYPES = ("date", "int8", "int4", "text", "text", "text")


class MessageToStore(NamedTuple):
    """One assembled message, in the order of recipients. Positional and small: a million of them pass by."""

    recipient_no: int
    contact_id: int
    address: str
    size: int
    """Octets of the message before compression."""
    place: int
    """In its block; 0 begins the next block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """One message as it is stored, with what is needed to read it."""

    released_on: date
    message_no: int
    recipient_no: int
    contact_id: int
    size: int
    address: str
    place_in_block: int
    block: bytes
    """The message and its neighbours, compressed."""
    dictionary: bytes | None
    """What they are compressed against."""


def store_messages(
    connection: Connection,
    released_on: date,
    release_id: int,
    first_message_no: int,
    messages: Sequence[MessageToStore],
    blocks: Sequence[bytes],
) -> int:
    """Store messages `first_message_no`, +1, +2 …, and the blocks that they are in. Returns the number that the next
    one takes.

    Raises StateConflict when the release's messages do not end just before: somebody else assembles it too.
    """
    if not messages:
        return first_message_no
    _count(
        connection,
        release_id,
        first_message=first_message_no,
        messages=len(messages),
        assembled_up_to=max(message.recipient_no for message in messages),
    )
    copy_rows(
        connection,
        STATEMENTS["copy_messages"],
        (
            (
                released_on,
                release_id,
                number,
                each.recipient_no,
                each.contact_id,
                each.size,
                each.place,
                each.address,
            )
            for number, each in enumerate(messages, start=first_message_no)
        ),
        types=_MESSAGE_TYPES,
    )
    begins = (number for number, each in enumerate(messages, start=first_message_no) if each.place == 0)
    copy_rows(
        connection,
        STATEMENTS["copy_blocks"],
        ((released_on, release_id, *each) for each in zip(begins, blocks, strict=True)),
        types=_BLOCK_TYPES,
    )
    return first_message_no + len(messages)


def store_bypasses(
    connection: Connection, released_on: date, release_id: int, stage: str, bypasses: Sequence[Bypass]
) -> int:
    """Store why recipients get no message, found by `stage` after dedup; they count as bypassed. Returns how
    many.
    """
    if not bypasses:
        return 0
    _count(
        connection,
        release_id,
        bypassed=len(bypasses),
        assembled_up_to=max(bypass.recipient_no for bypass in bypasses),
    )
    copy_rows(
        connection,
        STATEMENTS["copy_bypasses"],
        ((released_on, release_id, each.recipient_no, stage, each.reason, each.detail) for each in bypasses),
        types=_BYPASS_TYPES,
    )
    return len(bypasses)


def finish_assembly(connection: Connection, release_id: int, now: datetime) -> int:
    """Mark a release as assembled and return how many messages it has.

    Raises StateConflict with the figures when a recipient has neither a message nor a reason.
    """
    binds = {"release_id": release_id}
    messages = connection.execute(STATEMENTS["finish_assembly"], binds | {"now": now}).scalar_one_or_none()
    if messages is not None:
        return int(messages)
    found = connection.execute(STATEMENTS["read_assembly"], binds).one_or_none()
    if found is None:
        raise NotFound(f"there is no release {release_id}")
    if found.assembled_at is not None:
        raise StateConflict(f"release {release_id} is assembled already")
    if found.resolved_at is None:
        raise StateConflict(f"release {release_id} cannot be complete before its recipients are known")
    done = found.message_count + found.bypassed_count
    raise StateConflict(
        f"release {release_id} is not complete: {found.message_count} messages and {found.bypassed_count} "
        f"bypassed make {done} of {found.recipient_count} recipients"
    )


def read_message(
    connection: Connection,
    release_id: int,
    *,
    message_no: int | None = None,
    recipient_no: int | None = None,
    address: str | None = None,
) -> StoredMessage:
    """The message that one recipient got, by its number, the recipient's number or the address. Raises
    NotFound.

    An address that is no recipient's is looked for in each of the release's messages, about a second for a million.
    """
    if sum(key is not None for key in (message_no, recipient_no, address)) != 1:
        raise ValueError("name message_no, recipient_no or address, one of them")
    if address is not None:
        whose = {"release_id": release_id, "address_key": address_key(address)}
        message_no = connection.scalar(STATEMENTS["find_message_of_address"], whose)
        address = address if message_no is None else None
    row = connection.execute(
        STATEMENTS["read_message"],
        {
            "release_id": release_id,
            "message_no": message_no,
            "recipient_no": recipient_no,
            "address": address,
        },
    ).one_or_none()
    if row is None or row.block is None:
        raise NotFound(
            f"mail job {release_id} has no such message: nobody of that number or address, or bypassed, "
            "or past its retention"
        )
    return StoredMessage(**row._mapping)


def read_blocks(
    connection: Connection, released_on: date, release_id: int, first_messages: Set[int]
) -> dict[int, bytes]:
    """What messages of a release say, by the first message of each block. What is past retention is not there."""
    if not first_messages:
        return {}
    binds = {"released_on": released_on, "release_id": release_id, "first_messages": sorted(first_messages)}
    return dict(read_binary(connection, STATEMENTS["read_blocks"], binds))


def _count(
    connection: Connection,
    release_id: int,
    *,
    assembled_up_to: int,
    first_message: int | None = None,
    messages: int = 0,
    bypassed: int = 0,
) -> None:
    counted = connection.execute(
        STATEMENTS["count_assembled"],
        {
            "release_id": release_id,
            "first_message": first_message,
            "messages": messages,
            "bypassed": bypassed,
            "assembled_up_to": assembled_up_to,
        },
    )
    if counted.one_or_none() is None:
        raise StateConflict(
            f"release {release_id} is assembled already, or its messages do not end before {first_message}"
        )

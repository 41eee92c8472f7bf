"""The recipients of a release on their way to composition, in their order and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, Row

from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.model import BodyFormat, Bypass, Recipient
from mail_orchestration.kernel.statements import STATEMENTS

LEFT_AUDIENCE = "left_audience"
"""The bypass reason of somebody who was removed from the audience after dedup."""

_BODY_FORMATS = {each.value: each for each in BodyFormat}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientBatch:
    """The next recipients of a release: in `recipients` those to compose for, in `bypasses` those to bypass now."""

    recipients: list[Recipient]
    bypasses: list[Bypass]
    """With reason `left_audience`: their details are gone. They are for the caller to store."""
    up_to: int
    """The last recipient_no of the batch: where to go on after it is stored."""


def recipients_to_assemble(
    connection: Connection, release_id: int, after_recipient_no: int, batch: int
) -> Iterator[RecipientBatch]:
    """Read the release's recipients after `after_recipient_no` whom nothing has bypassed, by recipient_no.

    Each batch of at most `batch` is a statement of its own (a keyset, no cursor), so a connection in autocommit serves
    and no transaction is open while messages are composed. Raises NotFound when the release is not resolved.
    """
    released_on = connection.scalar(STATEMENTS["find_release_day"], {"release_id": release_id})
    if released_on is None:
        raise NotFound(f"release {release_id} is not resolved, or not known")
    yield from read_recipients(connection, released_on, release_id, after_recipient_no, batch)


def read_recipients(
    connection: Connection, released_on: date, release_id: int, after_recipient_no: int, batch: int
) -> Iterator[RecipientBatch]:
    """`recipients_to_assemble` of a release whose day is known, resolved or just being so."""
    key = {"released_on": released_on, "release_id": release_id, "batch": batch}
    while True:
        rows = connection.execute(STATEMENTS["read_recipients"], {**key, "after": after_recipient_no}).all()
        if not rows:
            return
        after_recipient_no = rows[-1].recipient_no
        yield RecipientBatch(
            recipients=[_recipient(row) for row in rows if row.is_member],
            bypasses=[
                Bypass(recipient_no=row.recipient_no, reason=LEFT_AUDIENCE)
                for row in rows
                if not row.is_member
            ],
            up_to=after_recipient_no,
        )


def _recipient(row: Row[tuple[object, ...]]) -> Recipient:
    return Recipient(
        recipient_no=row.recipient_no,
        contact_id=row.contact_id,
        address=row.address,
        # Dedup verified it; an import since may have put something else there, and then the default serves.
        body_format=_BODY_FORMATS.get(row.body_format),
        locale=row.locale,
        guid=row.guid,
        url=row.url,
        attributes=row.attributes or {},
    )

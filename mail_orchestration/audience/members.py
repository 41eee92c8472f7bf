"""Looking up audiences by name, and contacts in them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from mail_orchestration.kernel.model import BodyFormat, Recipient
from mail_orchestration.kernel.statements import STATEMENTS

_FORMATS = frozenset(BodyFormat)


def find_audiences(connection: Connection, installation_id: int, names: Sequence[str]) -> dict[str, int]:
    """Name → audience_id of those that an import has filled, were it with nobody."""
    rows = connection.execute(
        STATEMENTS["find_audience_ids"], {"installation_id": installation_id, "names": list(names)}
    )
    return {row.name: row.audience_id for row in rows}


def find_members(
    connection: Connection, installation_id: int, audiences: Sequence[str], contact_ids: Collection[int]
) -> dict[int, Recipient]:
    """The contacts of these numbers as a release to these audiences would see them, but for those whom none has.

    The audience named first gives the details (spec 1.2). Each is recipient 1: number them anew.
    """
    if not audiences or not contact_ids:
        return {}
    rows = connection.execute(
        STATEMENTS["find_audience_members"],
        {"installation_id": installation_id, "names": list(audiences), "contact_ids": list(contact_ids)},
    )
    return {
        row.contact_id: Recipient(
            recipient_no=1,
            contact_id=row.contact_id,
            address=row.address,
            body_format=BodyFormat(row.body_format) if row.body_format in _FORMATS else None,
            locale=row.locale,
            guid=row.guid,
            url=row.url,
            attributes=row.attributes or {},
        )
        for row in rows
    }

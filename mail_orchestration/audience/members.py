"""Looking up audiences by name, and one contact in them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from mail_orchestration.kernel.addresses import address_key
from mail_orchestration.kernel.model import BodyFormat, Recipient
from mail_orchestration.kernel.statements import STATEMENTS


def find_audiences(connection: Connection, installation_id: int, names: Sequence[str]) -> dict[str, int]:
    """Name → audience_id of those that an import has filled, were it with nobody."""
    rows = connection.execute(
        STATEMENTS["find_audience_ids"], {"installation_id": installation_id, "names": list(names)}
    )
    return {row.name: row.audience_id for row in rows}


def find_member(
    connection: Connection, installation_id: int, audiences: Sequence[str], address: str
) -> Recipient | None:
    """The contact of a normalised address as a release to these audiences would see it; None when none has it.

    The audience named first gives the details (spec 1.2).
    """
    row = connection.execute(
        STATEMENTS["find_audience_member"],
        {"installation_id": installation_id, "names": list(audiences), "address_key": address_key(address)},
    ).one_or_none()
    if row is None:
        return None
    formats = {each.value for each in BodyFormat}
    return Recipient(
        recipient_no=1,
        contact_id=row.contact_id,
        address=row.address,
        body_format=BodyFormat(row.body_format) if row.body_format in formats else None,
        locale=row.locale,
        guid=row.guid,
        url=row.url,
        attributes=row.attributes or {},
    )

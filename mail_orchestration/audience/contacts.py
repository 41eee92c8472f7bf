"""Contacts by their address or number, and who of them must not be written to: for a list of them at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from mail_orchestration.kernel.addresses import address_key
from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Who can be written to."""

    contact_id: int
    address: str
    """Normalised."""
    address_key: str


def ensure_contacts(
    connection: Connection, installation_id: int, addresses: Sequence[str]
) -> dict[str, Contact]:
    """The contacts of normalised addresses, by their address key. Who is none yet becomes one, without membership."""
    wanted = {address_key(address): address for address in reversed(addresses)}
    found = _by_key(connection, installation_id, wanted)
    new = sorted(wanted.keys() - found.keys())
    if not new:
        return found
    if len(new) > 1:
        lock_contacts(connection, installation_id)
    connection.execute(
        STATEMENTS["insert_contacts"],
        {"installation_id": installation_id, "addresses": [wanted[key] for key in new], "address_keys": new},
    )
    return found | _by_key(connection, installation_id, new)


def lock_contacts(connection: Connection, installation_id: int) -> None:
    """Wait for others who make several contacts, until this transaction ends: each in an order of its own, two would
    wait for each other.
    """
    connection.execute(STATEMENTS["lock_imports"], {"installation_id": installation_id})


def find_contact(connection: Connection, installation_id: int, address: str) -> Contact | None:
    """The contact of a normalised address; None when nobody has it."""
    key = address_key(address)
    return _by_key(connection, installation_id, [key]).get(key)


def contacts_by_number(
    connection: Connection, installation_id: int, contact_ids: Collection[int]
) -> dict[int, Contact]:
    """The contacts of these numbers that the installation has."""
    if not contact_ids:
        return {}
    rows = connection.execute(
        STATEMENTS["find_contacts_by_number"],
        {"installation_id": installation_id, "contact_ids": list(contact_ids)},
    )
    return {row.contact_id: Contact(**row._mapping) for row in rows}


def suppressions_of(connection: Connection, contact_ids: Collection[int]) -> dict[int, dict[str, str]]:
    """Of those who are suppressed: topic ('' is everything) → SuppressionReason."""
    found: dict[int, dict[str, str]] = {}
    for row in connection.execute(STATEMENTS["find_suppressions"], {"contact_ids": list(contact_ids)}):
        found.setdefault(row.contact_id, {})[row.topic] = row.reason
    return found


def _by_key(connection: Connection, installation_id: int, keys: Collection[str]) -> dict[str, Contact]:
    rows = connection.execute(
        STATEMENTS["find_contacts"], {"installation_id": installation_id, "address_keys": list(keys)}
    )
    return {row.address_key: Contact(**row._mapping) for row in rows}

"""Single mails enter the queue of loose mails (spec 7.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from mail_orchestration.kernel.loose_mail_states import LooseMailState
from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleMailContent:
    """What single mails of one frozen campaign share."""

    campaign_id: int
    frozen_campaign_id: int
    topic: str
    is_transactional: bool
    """Who opted out gets it nevertheless."""
    expires_at: datetime | None
    is_paused: bool
    """Its campaign is: they wait for its being resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleMailRow:
    """One of them."""

    contact_id: int
    address: str
    attributes: str
    """A JSON object."""
    occurrence: str
    history_key: bytes | None
    """What the queue history knows it by; None where it is not remembered."""
    priority: int
    due_at: datetime


def queue_single_mails(
    connection: Connection,
    installation_id: int,
    content: SingleMailContent,
    mails: Sequence[SingleMailRow],
    *,
    now: datetime,
) -> list[tuple[int, LooseMailState]]:
    """Put them into the queue, in the caller's transaction. Returns number and state of each, in their order."""
    rows = connection.execute(
        STATEMENTS["queue_single_mails"],
        {
            "installation_id": installation_id,
            "campaign_id": content.campaign_id,
            "frozen_campaign_id": content.frozen_campaign_id,
            "topic": content.topic,
            "is_transactional": content.is_transactional,
            "expires_at": content.expires_at,
            "is_paused": content.is_paused,
            "now": now,
            "contact_ids": [mail.contact_id for mail in mails],
            "addresses": [mail.address for mail in mails],
            "attributes": [mail.attributes for mail in mails],
            "occurrences": [mail.occurrence for mail in mails],
            "history_keys": [mail.history_key for mail in mails],
            "priorities": [mail.priority for mail in mails],
            "due_at": [mail.due_at for mail in mails],
        },
    )
    return [(row.loose_mail_id, LooseMailState(row.state)) for row in rows]


class ComposedMail(NamedTuple):
    """A message that was composed for a mail in a worker's hands."""

    loose_mail_id: int
    fence: int
    stored: bytes
    """Compressed against the frozen campaign's dictionary."""
    size: int
    """Octets of the message itself."""


def store_composed_mails(connection: Connection, composed: Sequence[ComposedMail]) -> set[int]:
    """Keep these messages for good. Returns the numbers of those mails that are still in the worker's hands."""
    stored = connection.scalars(
        STATEMENTS["store_composed_mails"],
        {
            "loose_mail_ids": [mail.loose_mail_id for mail in composed],
            "fences": [mail.fence for mail in composed],
            "messages": [mail.stored for mail in composed],
            "sizes": [mail.size for mail in composed],
        },
    )
    return set(stored)

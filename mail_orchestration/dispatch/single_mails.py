"""Single mails in the queue of loose mails: how they enter it, and what became of those that failed (spec 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from mail_orchestration.dispatch.campaigns import campaign_number
from mail_orchestration.dispatch.dead_letters import Chosen
from mail_orchestration.dispatch.loose_mail_lists import LoggedMail, logged_mail
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.failure_codes import FailureCode
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Single mails that failed, of one campaign and for one reason."""

    campaign: str
    code: FailureCode | None
    mails: int
    first_submitted_at: datetime
    last_submitted_at: datetime
    not_composed: int
    """Those of which there is no message yet: a resubmit may have them say something else."""
    description: str | None
    """Of the last one, for people; may quote a relay, which may quote an address. So are the three below."""
    reply_code: int | None
    enhanced_code: str | None
    reply_text: str | None
    """What the relay said to it at its last attempt; None where there was none."""


def failure_groups(
    connection: Connection, installation_id: int, *, campaign: str | None = None
) -> list[FailureGroup]:
    """What failed, by campaign and code, the largest groups first (spec 7.3).

    Raises NotFound for a campaign that is not known.
    """
    campaign_id = campaign_number(connection, installation_id, campaign)
    rows = connection.execute(
        STATEMENTS["count_single_mail_failures"],
        {"installation_id": installation_id, "campaign_id": campaign_id},
    )
    return [
        FailureGroup(**{**row._mapping, "code": None if row.code is None else FailureCode(row.code)})
        for row in rows
    ]


class NotComposed(NamedTuple):
    """A single mail that rests and has no message."""

    loose_mail_id: int
    campaign_id: int
    campaign: str
    folder: str | None
    """Of the campaign, relative to the settings' folder."""


def lock_not_composed(connection: Connection, installation_id: int, chosen: Chosen) -> list[NotComposed]:
    """Those of the chosen that were never composed, locked until the transaction ends.

    Raises NotFound for a campaign that is not known.
    """
    binds = chosen.binds(connection, installation_id)
    del binds["kind"]
    rows = connection.execute(STATEMENTS["find_not_composed"], binds)
    return [NotComposed(*row) for row in rows]


def freeze_anew(connection: Connection, loose_mail_ids: Sequence[int], content: SingleMailContent) -> None:
    """Let single mails that were never composed say this instead."""
    connection.execute(
        STATEMENTS["freeze_single_mails_anew"],
        {
            "loose_mail_ids": list(loose_mail_ids),
            "frozen_campaign_id": content.frozen_campaign_id,
            "topic": content.topic,
            "is_transactional": content.is_transactional,
            "expires_at": content.expires_at,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleMailDetails:
    """One single mail that has not come to its end. Holds an address: not for logs, nor for Dagster."""

    loose_mail_id: int
    campaign: str
    state: LooseMailState
    priority: int
    address: str
    contact_id: int
    attributes: dict[str, Any]
    occurrence: str
    created_at: datetime
    due_at: datetime
    expires_at: datetime | None
    attempts: int
    last_outcome: Outcome | None
    reply_code: int | None
    enhanced_code: str | None
    reply_text: str | None
    relay: str | None
    code: FailureCode | None
    description: str | None
    frozen_campaign_id: int
    message: bytes | None
    """Compressed; None before it is composed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedSingleMail(LoggedMail):
    """One single mail that has come to its end. Holds an address: not for logs, nor for Dagster."""

    contact_id: int
    size: int | None
    """Octets of its message; None where it was never composed."""
    frozen_campaign_id: int | None
    message: bytes | None
    """Compressed; None where there never was one, or where it is past its retention."""

    @property
    def is_message_dropped(self) -> bool:
        """Whether there was a message, which is past its retention."""
        return self.size is not None and self.message is None


def read_single_mail(
    connection: Connection, installation_id: int, loose_mail_id: int
) -> SingleMailDetails | EndedSingleMail:
    """One that waits, failed, or has come to its end. Raises NotFound."""
    which = {"installation_id": installation_id, "loose_mail_id": loose_mail_id}
    row = connection.execute(STATEMENTS["read_single_mail"], which).one_or_none()
    if row is not None:
        values = dict(row._mapping)
        values["state"] = LooseMailState(row.state)
        values["last_outcome"] = None if row.last_outcome is None else Outcome(row.last_outcome)
        values["code"] = None if row.code is None else FailureCode(row.code)
        return SingleMailDetails(**values)
    # Only now: what ends between the two is in the log.
    row = connection.execute(STATEMENTS["read_ended_single_mail"], which).one_or_none()
    if row is None:
        raise NotFound(f"there is no single mail {loose_mail_id}, or it is past its retention")
    return logged_mail(EndedSingleMail, row)

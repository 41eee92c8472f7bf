"""What is shown of loose mails: where they stand, and what became of those that have ended (spec 6.2, 6.3)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Row

from mail_orchestration.dispatch.campaigns import campaign_number
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.loose_mail_states import AT_REST, LooseMailKind, LooseMailState
from mail_orchestration.kernel.statements import STATEMENTS

MOST_COUNTED = 10_000
"""Of each kind in each state: whoever looks need not wait for a million to be counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LooseMailListed:
    """One loose mail for people. Holds an address: not for logs, nor for Dagster."""

    loose_mail_id: int
    kind: LooseMailKind
    state: LooseMailState
    priority: int
    campaign: str
    address: str
    release_id: int | None
    message_no: int | None
    created_at: datetime
    due_at: datetime
    expires_at: datetime | None
    attempts: int
    worker: str | None
    reserved_until: datetime | None
    last_outcome: Outcome | None
    reply_code: int | None
    enhanced_code: str | None
    reply_text: str | None
    relay: str | None
    code: str | None
    description: str | None

    @property
    def goes_at(self) -> datetime | None:
        """When it is due; None for one that only a hand lets go on."""
        return None if self.state in AT_REST else self.due_at


@dataclass(frozen=True, slots=True, kw_only=True)
class LooseMailCount:
    """How many loose mails of a kind are in a state, and when the first is due, of those that wait for their turn."""

    kind: LooseMailKind
    state: LooseMailState
    mails: int
    has_more: bool
    """There are more than `mails`, which is MOST_COUNTED then."""
    first_due_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedMail:
    """What became of one loose mail. Holds an address: not for logs, nor for Dagster."""

    loose_mail_id: int
    kind: LooseMailKind
    campaign: str
    address: str
    release_id: int | None
    message_no: int | None
    created_at: datetime
    ended_at: datetime
    attempts: int
    outcome: Outcome
    reply_code: int | None
    enhanced_code: str | None
    reply_text: str | None
    relay: str
    code: str | None
    description: str | None
    deleted_by: str | None


_Logged = TypeVar("_Logged", bound=LoggedMail)


def list_loose_mails(
    connection: Connection,
    installation_id: int,
    *,
    states: Collection[LooseMailState] | None = None,
    kind: LooseMailKind | None = None,
    campaign: str | None = None,
    mail_job_id: int | None = None,
    most: int = 1000,
) -> list[LooseMailListed]:
    """The first `most` loose mails in the order in which they will go. Raises NotFound for an unknown campaign."""
    rows = connection.execute(
        STATEMENTS["list_loose_mails"],
        {
            "installation_id": installation_id,
            "states": None if states is None else sorted(each.value for each in states),
            "kind": kind,
            "campaign_id": campaign_number(connection, installation_id, campaign),
            "mail_job_id": mail_job_id,
            "most": most,
        },
    )
    return [
        LooseMailListed(
            **{
                **row._mapping,
                "kind": LooseMailKind(row.kind),
                "state": LooseMailState(row.state),
                "last_outcome": None if row.last_outcome is None else Outcome(row.last_outcome),
            }
        )
        for row in rows
    ]


def count_loose_mails(connection: Connection, installation_id: int) -> list[LooseMailCount]:
    """How many of an installation stand where, up to MOST_COUNTED of each."""
    rows = connection.execute(
        STATEMENTS["count_loose_mails"], {"installation_id": installation_id, "most": MOST_COUNTED + 1}
    )
    counts = [
        LooseMailCount(
            kind=LooseMailKind(row.kind),
            state=LooseMailState(row.state),
            mails=min(row.mails, MOST_COUNTED),
            has_more=row.mails > MOST_COUNTED,
            first_due_at=row.first_due_at,
        )
        for row in rows
    ]
    kinds, states = list(LooseMailKind), list(LooseMailState)
    return sorted(counts, key=lambda each: (kinds.index(each.kind), states.index(each.state)))


def delivery_log(
    connection: Connection,
    installation_id: int,
    *,
    outcomes: Collection[Outcome] | None = None,
    kind: LooseMailKind | None = None,
    campaign: str | None = None,
    address: str | None = None,
    most: int = 1000,
) -> list[LoggedMail]:
    """What became of the last `most` loose mails, newest first. Raises NotFound for an unknown campaign."""
    rows = connection.execute(
        STATEMENTS["list_delivery_log"],
        {
            "installation_id": installation_id,
            "outcomes": None if outcomes is None else sorted(each.value for each in outcomes),
            "kind": kind,
            "campaign_id": campaign_number(connection, installation_id, campaign),
            "address": address,
            "most": most,
        },
    )
    return [logged_mail(LoggedMail, row) for row in rows]


def logged_mail(kind: type[_Logged], row: Row[Any]) -> _Logged:
    """What a row with a column for each field says."""
    return kind(**{**row._mapping, "kind": LooseMailKind(row.kind), "outcome": Outcome(row.outcome)})

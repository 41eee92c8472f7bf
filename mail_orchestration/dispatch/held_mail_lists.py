"""What waits in the frequency queue, what became of what waited, and what counts for whom: to be shown (spec 8.9)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row

from mail_orchestration.dispatch.campaigns import CampaignState
from mail_orchestration.dispatch.held_mails import HeldMailEnding
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.frequency import Rule, rules_of_document
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState

_READ_WHOLE = 32
"""So many recipients of a release are read at once, in less time than two more of them are looked up one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wait:
    """What is known of a mail's wait from its beginning on."""

    held_mail_id: int
    mail_job_id: int
    """That it was held in."""
    campaign: str
    priority: int
    held_at: datetime
    expires_at: datetime
    held_by: Rule
    """The rule that held it, as it was then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMail(_Wait):
    """A mail that waits."""

    contact_id: int
    address: str
    own_rules: tuple[Rule, ...] | None
    """The campaign's, in place of the policy's; None: the policy's."""
    starts_at: datetime | None
    """Before it nothing of the release is sent."""
    campaign_state: CampaignState
    mail_job_state: MailJobState
    """Of the mail job that it was held in."""
    ahead: int
    """Mails that wait for the same contact, count, may go and are more important."""
    ahead_from: Sequence[datetime]
    """When others of the kind start, which may not go before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastHeldMail(_Wait):
    """A mail that waited."""

    ended_at: datetime
    ending: HeldMailEnding
    ended_by: str
    later_mail_job_id: int | None
    """The mail job that sends it, if it is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCount:
    """The mails of one campaign that one rule held and that wait."""

    campaign: str
    held_by: Rule
    mails: int
    held_since: datetime
    """When the first of them was held."""
    first_expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPlace:
    """A mail that counts for a contact, and that the daily log has not counted yet."""

    mail_job_id: int
    campaign: str
    released_at: datetime
    state: MailJobState
    """Of the mail job."""
    outcome: Outcome | None
    """What became of the mail so far; None: it is on its way."""
    occurred_at: datetime | None


def held_mails(
    connection: Connection,
    installation_id: int,
    *,
    campaign_id: int | None = None,
    contact_id: int | None = None,
    limit: int | None = None,
    now: datetime,
) -> list[HeldMail]:
    """The mails that wait, most important first, at most `limit`: of a campaign, a contact, or all."""
    rows = connection.execute(
        STATEMENTS["list_held_mails"],
        {
            "installation_id": installation_id,
            "campaign_id": campaign_id,
            "contact_id": contact_id,
            "most": limit,
            "now": now,
        },
    )
    return [_held_mail(row) for row in rows]


def held_counts(connection: Connection, installation_id: int) -> list[HeldCount]:
    """How many mails wait, by campaign and by the rule that held them, most first."""
    rows = connection.execute(STATEMENTS["count_held_mails"], {"installation_id": installation_id})
    return [
        HeldCount(
            campaign=row.campaign,
            held_by=Rule(row.max_mails, row.days),
            mails=row.mails,
            held_since=row.held_since,
            first_expires_at=row.first_expires_at,
        )
        for row in rows
    ]


def ended_counts(connection: Connection, installation_id: int, since: datetime) -> dict[HeldMailEnding, int]:
    """How many waits ended since a moment, by ending."""
    rows = connection.execute(
        STATEMENTS["count_ended_held_mails"], {"installation_id": installation_id, "since": since}
    )
    return {HeldMailEnding(row.ending): row.mails for row in rows}


def past_held_mails(connection: Connection, contact_id: int, limit: int) -> list[PastHeldMail]:
    """How earlier waits of a contact ended, the latest first, at most `limit`."""
    rows = connection.execute(STATEMENTS["list_past_held_mails"], {"contact_id": contact_id, "most": limit})
    return [PastHeldMail(**{**_wait(row), "ending": HeldMailEnding(row.ending)}) for row in rows]


def mails_by_day(
    connection: Connection, contact_ids: Collection[int], first_day: date
) -> dict[int, dict[date, int]]:
    """What contacts got on each day from `first_day` on, as the daily log has it: by contact, then by day."""
    found: dict[int, dict[date, int]] = {contact_id: {} for contact_id in contact_ids}
    binds = {"contact_ids": list(contact_ids), "first_day": first_day}
    for row in connection.execute(STATEMENTS["read_mails_by_day"], binds):
        found[row.contact_id][row.day] = row.mails
    return found


def open_place_counts(connection: Connection, contact_ids: Collection[int]) -> dict[int, int]:
    """How many places contacts have in the counters; who has none is not named."""
    rows = connection.execute(STATEMENTS["read_open_places"], {"contact_ids": list(contact_ids)})
    return {row.contact_id: row.places for row in rows}


def places_of_contact(
    connection: Connection, installation_id: int, contact_id: int, not_before: datetime
) -> list[OpenPlace]:
    """The contact's places, with their mail jobs; `not_before`: the first moment that the daily log has not counted."""
    releases = connection.execute(
        STATEMENTS["find_releases_of_open_places"],
        {"installation_id": installation_id, "not_before": not_before},
    ).all()
    rows = connection.execute(
        STATEMENTS["find_places_of_contact"],
        {
            "release_ids": [release.release_id for release in releases],
            "days": sorted({release.released_on for release in releases}),
            "contact_id": contact_id,
            "not_before": not_before,
            "read_whole": _READ_WHOLE,
        },
    )
    return [
        OpenPlace(
            mail_job_id=row.mail_job_id,
            campaign=row.campaign,
            released_at=row.released_at,
            state=MailJobState(row.state),
            outcome=None if row.outcome is None else Outcome(row.outcome),
            occurred_at=row.occurred_at,
        )
        for row in rows
    ]


def _wait(row: Row[Any]) -> dict[str, Any]:
    """A row's columns, with the rule that held it as one value."""
    values = dict(row._mapping)
    values["held_by"] = Rule(values.pop("max_mails"), values.pop("days"))
    return values


def _held_mail(row: Row[Any]) -> HeldMail:
    values = _wait(row)
    own_rules = values.pop("frequency_rules")
    values["own_rules"] = None if own_rules is None else rules_of_document(own_rules)
    values["campaign_state"] = CampaignState(row.campaign_state)
    values["mail_job_state"] = MailJobState(row.mail_job_state)
    return HeldMail(**values)

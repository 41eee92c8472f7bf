"""Why a mail was held, and until when: for one contact, with all that counts (spec 8.9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Connection

from mail_orchestration.audience.contacts import Contact, find_contact
from mail_orchestration.dispatch.campaigns import CampaignState, campaign_number
from mail_orchestration.dispatch.held_mail_lists import (
    HeldMail,
    OpenPlace,
    PastHeldMail,
    held_mails,
    mails_by_day,
    open_place_counts,
    past_held_mails,
    places_of_contact,
)
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.addresses import normalise_address
from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.days import day_bounds
from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.frequency import (
    MOST_DAYS,
    Rule,
    Window,
    forbidding,
    free_on,
    mails_counted,
)
from mail_orchestration.kernel.frequency_in_force import PolicyInForce, policy_in_force
from mail_orchestration.kernel.states import MailJobState

PAST_SHOWN = 20
"""Earlier waits of a contact that are told, at most."""
_STOPPED = {MailJobState.STOPPING, MailJobState.STOPPED_Q, MailJobState.STOPPED_R}
_NOT_QUEUED = {MailJobState.QUEUING, MailJobState.INTERRUPTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCount:
    """One rule of the policy, and what counts for it."""

    rule: Rule
    counted: int

    @property
    def is_reached(self) -> bool:
        """Whether it forbids another mail."""
        return self.counted >= self.rule.max_mails


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingMail:
    """A mail that waits, for what, and until when."""

    mail: HeldMail
    forbidden_by: Rule | None
    """The rule that forbids it now, the one of the most days; None: none does, but for what is ahead of it."""
    waits_for: str
    """What else it waits for, such as its paused campaign; ''."""
    free_on: date | None
    """The first day on which it may go by the rules, when nothing else is sent and what is ahead of it goes first.

    None while no policy holds: it goes with the next rescan.
    """
    expires_first: bool
    """Whether its wait is over before that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Everything about how often a contact is written to."""

    contact_id: int
    address: str
    in_force: PolicyInForce | None
    today: date
    """In the installation's time zone."""
    rules: Sequence[RuleCount]
    """Those of the policy, narrowest first; a campaign's own are with its mails."""
    by_day: Mapping[date, int]
    """Mails of closed days that count for some rule, or would for a campaign's own."""
    places: Sequence[OpenPlace]
    """Mails on their way, and those of days that are not closed: they count as mails of today."""
    waiting: Sequence[WaitingMail]
    """Most important first."""
    past: Sequence[PastHeldMail]
    """Earlier waits, the latest first, at most PAST_SHOWN."""


def why(inst: Installation, address: str, *, now: datetime | None = None) -> Why:
    """What holds for a contact, now by the database's clock or at `now`. Raises BadAddress, NotFound."""
    with inst.database.begin() as connection:
        contact = _contact_of(connection, inst, address)
        facts = _Facts.read(connection, inst, [contact.contact_id], now)
        by_day = facts.by_day[contact.contact_id]
        open_places = facts.places.get(contact.contact_id, 0)
        not_before, _ = day_bounds(
            facts.today if facts.in_force is None else facts.in_force.counted_for, inst.settings.zone
        )
        return Why(
            contact_id=contact.contact_id,
            address=contact.address,
            in_force=facts.in_force,
            today=facts.today,
            rules=[
                RuleCount(
                    rule=rule, counted=mails_counted(by_day, open_places, rule, facts.window, facts.today)
                )
                for rule in facts.rules
            ],
            by_day=by_day,
            places=places_of_contact(connection, inst.installation_id, contact.contact_id, not_before),
            waiting=[
                facts.waiting(each)
                for each in held_mails(
                    connection, inst.installation_id, contact_id=contact.contact_id, now=facts.now
                )
            ],
            past=past_held_mails(connection, contact.contact_id, PAST_SHOWN),
        )


def waiting_mails(
    inst: Installation,
    *,
    campaign: str | None = None,
    address: str | None = None,
    limit: int = 50,
    now: datetime | None = None,
) -> list[WaitingMail]:
    """The mails that wait, most important first, at most `limit`: a campaign's, a contact's, or all.

    Raises BadAddress, NotFound.
    """
    with inst.database.begin() as connection:
        now = now or database_now(connection)
        mails = held_mails(
            connection,
            inst.installation_id,
            campaign_id=campaign_number(connection, inst.installation_id, campaign),
            contact_id=None if address is None else _contact_of(connection, inst, address).contact_id,
            limit=limit,
            now=now,
        )
        facts = _Facts.read(connection, inst, sorted({each.contact_id for each in mails}), now)
        return [facts.waiting(each) for each in mails]


def _contact_of(connection: Connection, inst: Installation, address: str) -> Contact:
    contact = find_contact(connection, inst.installation_id, normalise_address(address))
    if contact is None:
        raise NotFound("nobody of that address is a contact of this installation")
    return contact


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What counts for some contacts."""

    inst: Installation
    in_force: PolicyInForce | None
    now: datetime
    today: date
    by_day: Mapping[int, Mapping[date, int]]
    places: Mapping[int, int]

    @classmethod
    def read(
        cls, connection: Connection, inst: Installation, contact_ids: Sequence[int], now: datetime | None
    ) -> _Facts:
        now = now or database_now(connection)
        today = day_of(now, inst.settings.zone)
        return cls(
            inst=inst,
            in_force=policy_in_force(connection, inst.installation_id),
            now=now,
            today=today,
            by_day=mails_by_day(connection, contact_ids, today - timedelta(days=MOST_DAYS)),
            places=open_place_counts(connection, contact_ids),
        )

    @property
    def rules(self) -> Sequence[Rule]:
        return () if self.in_force is None else self.in_force.policy.rules

    @property
    def window(self) -> Window:
        return Window.ROLLING if self.in_force is None else self.in_force.window

    def _next_midnight(self, at: datetime) -> date:
        """The first day that begins at that moment or later: as it begins, what may go is chosen."""
        return day_of(at - timedelta(microseconds=1), self.inst.settings.zone) + timedelta(days=1)

    def waiting(self, mail: HeldMail) -> WaitingMail:
        rules = self.rules if mail.own_rules is None else mail.own_rules
        by_day, places = self.by_day[mail.contact_id], self.places.get(mail.contact_id, 0)
        goes_on, forbidden_by = None, None
        if self.in_force is not None:
            forbidden_by = forbidding(by_day, places, rules, self.window, self.today)
            goes_on = free_on(
                by_day,
                places,
                rules,
                self.window,
                self.today,
                ahead=mail.ahead,
                ahead_from=[self._next_midnight(at) for at in mail.ahead_from],
            )
        return WaitingMail(
            mail=mail,
            forbidden_by=forbidden_by,
            waits_for=_waits_for(mail, self.now),
            free_on=goes_on,
            expires_first=goes_on is not None
            and day_bounds(goes_on, self.inst.settings.zone)[0] > mail.expires_at,
        )


def _waits_for(mail: HeldMail, now: datetime) -> str:
    if mail.campaign_state is CampaignState.PAUSED:
        return f"campaign {mail.campaign} is paused"
    if mail.mail_job_state in _STOPPED:
        return f"mail job {mail.mail_job_id}, in which it was held, is stopped"
    if mail.mail_job_state in _NOT_QUEUED:
        return f"mail job {mail.mail_job_id}, in which it was held, is not queued yet"
    if mail.starts_at is not None and mail.starts_at > now:
        return f"campaign {mail.campaign} does not start before {mail.starts_at.isoformat()}"
    return ""

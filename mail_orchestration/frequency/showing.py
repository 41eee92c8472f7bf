"""The policy as it stands, and what it has come to: for people (spec 8.1, 8.9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from mail_orchestration.dispatch.held_mail_lists import HeldCount, ended_counts, held_counts
from mail_orchestration.dispatch.held_mails import HeldMailEnding, count_held_mails
from mail_orchestration.feedback.frequency_figures import (
    ContactsAtLimit,
    QueueDay,
    contacts_at_limit,
    queue_by_day,
)
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.frequency import Policy, expires_first
from mail_orchestration.kernel.frequency_in_force import PolicyInForce, policy_in_force

ENDED_WITHIN = timedelta(days=7)
"""Waits that ended so lately are told of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyShown:
    """Which policy holds, which one the settings wish for, and how many mails wait."""

    in_force: PolicyInForce | None
    wished: Policy | None
    waiting: int

    @property
    def in_words(self) -> str:
        """The rules that hold, in one line; '' where none do."""
        if self.in_force is None:
            return ""
        policy = self.in_force.policy
        return f"at most {', '.join(map(str, policy.rules))} ({policy.window} window)"

    @property
    def expires_first(self) -> str:
        """That mails which are held may expire before the longest rule lets them go; '' where they do not."""
        if self.in_force is None or not self.in_force.policy.hold:
            return ""
        return expires_first(self.in_force.policy.rules, self.in_force.policy.shelf_life_days) or ""

    @property
    def difference(self) -> str:
        """In what the settings say something else than what holds, and when that changes; '' where they agree."""
        if self.in_force is None:
            if self.wished is None:
                return ""
            return (
                "the settings enable the frequency policy: it holds from the next release, rescan or night on"
            )
        if self.wished is None:
            return (
                "the settings disable the frequency policy, and it holds until you confirm that: "
                "mail-orchestration frequency disable"
            )
        if self.wished != self.in_force.policy:
            return "the settings say another frequency policy: it holds from the next release, rescan or night on"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The policy with its figures."""

    shown: PolicyShown
    contacts: ContactsAtLimit | None
    """Who is at the limit of a rule; None where no policy holds."""
    held: Sequence[HeldCount]
    """What waits, by campaign and rule, most first."""
    ended: Mapping[HeldMailEnding, int]
    """Waits that ended ENDED_WITHIN, by ending."""
    days: Sequence[QueueDay]
    """The queue day by day, for a month at most."""


def policy_shown(connection: Connection, inst: Installation) -> PolicyShown:
    """The policy without its figures: read at once, however many contacts there are."""
    return PolicyShown(
        in_force=policy_in_force(connection, inst.installation_id),
        wished=inst.settings.frequency.policy,
        waiting=count_held_mails(connection, inst.installation_id),
    )


def overview(inst: Installation, *, now: datetime | None = None) -> Overview:
    """The policy with its figures, now by the database's clock or at `now`.

    Contacts at a limit are as they were counted last, where they are many.
    """
    with inst.database.begin() as connection:
        now = now or database_now(connection)
        today = day_of(now, inst.settings.zone)
        shown = policy_shown(connection, inst)
        in_force = shown.in_force
        return Overview(
            shown=shown,
            contacts=None
            if in_force is None
            else contacts_at_limit(connection, inst.installation_id, in_force),
            held=held_counts(connection, inst.installation_id),
            ended=ended_counts(connection, inst.installation_id, now - ENDED_WITHIN),
            days=queue_by_day(connection, inst.installation_id, inst.settings.zone, today),
        )

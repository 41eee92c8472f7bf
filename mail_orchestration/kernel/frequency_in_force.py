"""The frequency policy that holds for an installation: what its settings say may be another one (spec 8.1, 8.4)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection

from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.frequency import Policy, Window, first_day, policy_of_document
from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInForce:
    """The policy as it was applied last, and what the counters count."""

    policy: Policy
    counted_for: date
    """The day for which the counters count."""
    applied_at: datetime

    @property
    def most(self) -> list[int]:
        """The most mails that the rules let through, in the order of the counters' columns."""
        return [rule.max_mails for rule in self.policy.rules]

    def first_days(self, today: date) -> list[date]:
        """The first day whose mails count on `today`, by each rule, in the order of the counters' columns."""
        return [first_day(rule, self.window, today) for rule in self.policy.rules]

    @property
    def window(self) -> Window:
        """Which days a rule looks at."""
        return self.policy.window


def keep_time_zone(connection: Connection, installation_id: int, time_zone: str) -> None:
    """Raise BadSettings where the policy that holds has counted by days of another time zone.

    Days that are closed would overlap those to come: mails of some hours would count twice, and leave places twice.
    """
    counted_in = connection.scalar(STATEMENTS["find_days_counted_in"], {"installation_id": installation_id})
    if counted_in is not None and counted_in != time_zone:
        raise BadSettings(
            f"time_zone is {time_zone}, and the frequency policy that holds counts by days of {counted_in}: set it "
            "back; it can be changed once the policy has ended (mail-orchestration frequency disable)"
        )


def policy_in_force(connection: Connection, installation_id: int) -> PolicyInForce | None:
    """The policy that holds; None where none does. To rely on it, hold the lock of `kernel.frequency_lock`."""
    found = connection.execute(
        STATEMENTS["read_frequency_policy"], {"installation_id": installation_id}
    ).one_or_none()
    if found is None:
        return None
    return PolicyInForce(
        policy=policy_of_document(found.policy), counted_for=found.counted_for, applied_at=found.applied_at
    )

"""The policy is disabled: all that waits is sent at once, and the history is dropped (spec 8.4)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mail_orchestration.dispatch.held_mail_lists import HeldCount, held_counts
from mail_orchestration.feedback.frequency_history import History, drop_history, history
from mail_orchestration.frequency.releasing import Released, let_go, release_held
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.errors import StateConflict
from mail_orchestration.kernel.frequency_in_force import PolicyInForce, policy_in_force
from mail_orchestration.kernel.frequency_lock import lock_frequency


@dataclass(frozen=True, slots=True, kw_only=True)
class Disabling:
    """What disabling the policy would do: for the operator, who is asked."""

    in_force: PolicyInForce
    waiting: list[HeldCount]
    """What would be sent at once, by campaign and rule."""
    history: History
    """What would be forgotten."""

    @property
    def mails(self) -> int:
        """How many mails would be sent at once."""
        return sum(each.mails for each in self.waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disabled:
    """What was done."""

    released: Released
    forgotten: History


def what_disabling_does(inst: Installation) -> Disabling:
    """What would be sent at once, and what would be forgotten. Raises StateConflict as `disable_policy` does."""
    with inst.database.begin() as connection:
        return Disabling(
            in_force=_to_disable(inst, policy_in_force(connection, inst.installation_id)),
            waiting=held_counts(connection, inst.installation_id),
            history=history(connection, inst.installation_id),
        )


def disable_policy(inst: Installation, *, by: str, now: datetime | None = None) -> Disabled:
    """Send all that waits, whatever the rules say, and forget how often anybody was written to. `by`: who does it.

    What has expired is not sent; what is paused or was stopped goes when it goes on, and what has a start time then.
    All or nothing, in one transaction, after what the policy itself lets go by now: a night may have been cut off.
    Raises StateConflict when no policy holds, and while the settings enable one, which would hold again at once.
    """
    with inst.database.begin() as connection:
        _to_disable(inst, policy_in_force(connection, inst.installation_id))
    owed = release_held(inst, now=now)
    with inst.database.begin() as connection:
        lock_frequency(connection, inst.installation_id)
        in_force = _to_disable(inst, policy_in_force(connection, inst.installation_id))
        now = now or database_now(connection)
        released = let_go(connection, inst, in_force, now=now, by=by, is_disabled=True)
        forgotten = history(connection, inst.installation_id)
        drop_history(connection, inst.installation_id, now)
        crash_point("policy_dropped")
    return Disabled(released=owed.then(released), forgotten=forgotten)


def _to_disable(inst: Installation, in_force: PolicyInForce | None) -> PolicyInForce:
    if in_force is None:
        raise StateConflict("no frequency policy holds: there is nothing to disable")
    if inst.settings.frequency.enabled:
        raise StateConflict(
            "the settings enable the frequency policy, and it would hold again with the next release: "
            "set frequency: enabled: false first"
        )
    return in_force

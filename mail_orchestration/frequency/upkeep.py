"""What keeps the counters as they should be: before a gate, a rescan, and every night."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mail_orchestration.dispatch.held_mails import last_end_of_shelf
from mail_orchestration.dispatch.later_releases import are_held_mails_freed
from mail_orchestration.feedback.daily_counts import ClosedDay, close_days_due
from mail_orchestration.feedback.frequency_counters import count_anew, give_back_places
from mail_orchestration.frequency.applying import apply_policy, has_policy, restartable_since
from mail_orchestration.frequency.releasing import Released, release_as_of, release_held
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.frequency_in_force import PolicyInForce, policy_in_force


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What was done to bring the counters up to date."""

    closed: list[ClosedDay] = field(default_factory=list)
    is_rules_changed: bool = False
    """The policy was enabled, or its rules changed: what is held may be allowed now."""
    is_counted_anew: bool = False
    """Mails have left the windows since the counters were last counted: it is another day."""
    given_back: int = 0
    """Places of mails that never arrived and never will."""
    released: Released = field(default_factory=Released)
    """What became of the frequency queue on nights that were missed."""

    @property
    def may_free_held_mails(self) -> bool:
        """Whether somebody may be written to now who could not be before."""
        return self.is_rules_changed or self.is_counted_anew or self.given_back > 0


def prepare_gate(inst: Installation, *, now: datetime) -> None:
    """Before a release passes the gate: counters are brought up to date, and what waits longer goes first.

    The queue is looked through where somebody may be written to now who could not be before, or the operator resumed or
    restarted what kept mails in it. Nothing is done where no policy holds and none is wished.
    """
    if has_policy(inst):
        finish_last_night(inst, now=now)
        upkeep = bring_up_to_date(inst, now=now)
        with inst.database.begin() as connection:
            is_freed = are_held_mails_freed(connection, inst.installation_id)
        if upkeep.may_free_held_mails or is_freed:
            release_held(inst, now=now)


def finish_last_night(inst: Installation, *, now: datetime | None = None) -> Released:
    """Let go what the day that is counted for allows, before another day is: its night may have been cut off."""
    now = now or inst.now()
    return Released() if _behind(inst, now) is None else release_held(inst, now=now)


def bring_up_to_date(inst: Installation, *, now: datetime | None = None) -> Upkeep:
    """Apply the settings' policy, close the days that are over, count anew, and take back what never arrived.

    Where mails are held `finish_last_night` comes first: what the last day allowed is forgotten here. Now by the
    database's clock, or at `now`. May be repeated, and be cut off anywhere: each step is a transaction of its own.
    Without it nobody is written to too often: counters of yesterday can only hold too much.
    """
    now = now or inst.now()
    database, installation_id, zone = inst.database, inst.installation_id, inst.settings.zone
    closed = close_days_due(database, installation_id, zone, now)
    released, given_back = _catch_up(inst, now)
    is_rules_changed = apply_policy(inst, now=now)
    is_counted_anew = count_anew(database, installation_id, day_of(now, zone))
    given_back += _give_back(inst, now)
    return Upkeep(
        closed=closed,
        is_rules_changed=is_rules_changed,
        is_counted_anew=is_counted_anew,
        given_back=given_back,
        released=released,
    )


def _behind(inst: Installation, now: datetime) -> tuple[PolicyInForce, datetime] | None:
    """The policy that holds, and when a shelf life ended last, where nights are to be made up for."""
    with inst.database.begin() as connection:
        in_force = policy_in_force(connection, inst.installation_id)
        ended_at = last_end_of_shelf(connection, inst.installation_id, now=now)
    if in_force is None or ended_at is None or in_force.counted_for >= day_of(now, inst.settings.zone):
        return None
    return in_force, ended_at


def _give_back(inst: Installation, now: datetime) -> int:
    return give_back_places(
        inst.database,
        inst.installation_id,
        inst.settings.zone,
        queued_after=restartable_since(inst, now),
        now=now,
    )


def _catch_up(inst: Installation, now: datetime) -> tuple[Released, int]:
    """Night after night that was missed, let go what was allowed on it, as long as shelf lives ended meanwhile.

    All that is in the daily log or has a place by now had one then: nothing passed a gate since, which would have been
    here first. Returns also how many places were given back.
    """
    zone, released = inst.settings.zone, Released()
    if (behind := _behind(inst, now)) is None:
        return released, 0
    in_force, ended_at = behind
    given_back = _give_back(inst, now)
    last = min(day_of(ended_at, zone), day_of(now, zone) - timedelta(days=1))
    for after in range((last - in_force.counted_for).days):
        night = in_force.counted_for + timedelta(days=after + 1)
        released = released.then(release_as_of(inst, night, now=now))
    return released, given_back

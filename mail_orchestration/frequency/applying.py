"""What the settings wish of the frequency policy comes into force (spec 8.1). To end it is for the operator (8.4)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mail_orchestration.audience.frequency_gate import WishedPolicy, take_places
from mail_orchestration.feedback.frequency_counters import (
    close_days_of_release,
    last_closed_day,
    put_in_force,
    releases_without_places,
)
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.days import day_bounds
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.frequency_in_force import policy_in_force
from mail_orchestration.kernel.frequency_lock import lock_frequency


def apply_policy(inst: Installation, *, now: datetime) -> bool:
    """Put the settings' policy in force where another one holds, or none; whether its rules or its window are new.

    What is on its way when a policy is enabled gets places, so that it counts. A policy that the settings do not wish
    any more goes on to hold until the operator confirms its end. One transaction: it is done or it never was.
    """
    wish = inst.settings.frequency.policy
    if wish is None:
        return False
    with inst.database.begin() as connection:
        held = policy_in_force(connection, inst.installation_id)
    if held is not None and held.policy == wish:
        return False
    with inst.database.begin() as connection:
        lock_frequency(connection, inst.installation_id)
        held = policy_in_force(connection, inst.installation_id)
        today = day_of(now, inst.settings.zone)
        put_in_force(connection, inst.installation_id, wish, today, now)
        if held is None:
            open_since, _ = day_bounds(today, inst.settings.zone)
            for release_id, released_on in releases_without_places(
                connection,
                inst.installation_id,
                queued_after=restartable_since(inst, now),
                open_since=open_since,
                now=now,
            ):
                take_places(connection, release_id, released_on)
                close_days_of_release(
                    connection, inst.installation_id, release_id, released_on, inst.settings.zone, now
                )
        crash_point("policy_applied")
    return held is None or (held.policy.rules, held.policy.window) != (wish.rules, wish.window)


def foresee_policy(inst: Installation, *, now: datetime) -> WishedPolicy | None:
    """What `apply_policy` would put in force, and where it would find what counts; None when nothing is wished.

    Reads only.
    """
    if (wish := inst.settings.frequency.policy) is None:
        return None
    zone, queued_after = inst.settings.zone, restartable_since(inst, now)
    with inst.database.begin() as connection:
        closed = last_closed_day(connection, inst.installation_id)
        open_since = datetime.min.replace(tzinfo=UTC) if closed is None else day_bounds(closed, zone)[1]
        without_places = releases_without_places(
            connection, inst.installation_id, queued_after=queued_after, open_since=open_since, now=now
        )
    return WishedPolicy(
        policy=wish, without_places=without_places, open_since=open_since, queued_after=queued_after
    )


def has_policy(inst: Installation) -> bool:
    """Whether a frequency policy holds, or the settings wish for one."""
    if inst.settings.frequency.enabled:
        return True
    with inst.database.begin() as connection:
        return policy_in_force(connection, inst.installation_id) is not None


def restartable_since(inst: Installation, now: datetime) -> datetime:
    """What was queued after this moment and has failed can be restarted (spec 5.4)."""
    hours = [each.job_recovery_expire_in_hours for each in inst.settings.mailcasters]
    usual = MailcasterParameters.model_fields["job_recovery_expire_in_hours"].default
    return now - timedelta(hours=max(hours, default=usual))

"""The gate: of a release's recipients those go through whom the frequency policy lets (spec 8.4, 8.5, 8.7, 8.8).

Whoever goes through has a place in the counters from then on, before anything is assembled: the next release counts it
as a mail of today. Whoever may not stays in the books with a bypass reason of the stage `frequency`, whose detail is
the rule that forbids it, of several the one of the most days:

    held            the mail waits in the frequency queue
    discarded       it does not: "do not queue"
    expired         it would wait, and one of an earlier occurrence of the campaign does already

One gate of an installation at a time: see `kernel.frequency_lock`. Counters of yesterday can only hold too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Row

from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.frequency import (
    CampaignPolicy,
    Policy,
    Rule,
    first_day,
    rules_of_document,
    shelf_life_ends,
)
from mail_orchestration.kernel.frequency_in_force import PolicyInForce, policy_in_force
from mail_orchestration.kernel.frequency_lock import lock_frequency
from mail_orchestration.kernel.partitions import ensure_day, partition_of
from mail_orchestration.kernel.planner import analyze
from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class WishedPolicy:
    """The policy of the settings, which may not be in force, and what would count if it were enabled now."""

    policy: Policy
    without_places: Sequence[tuple[int, date]]
    """Releases, with the days of their partitions, whose mails the daily log and the places do not tell of."""
    open_since: datetime
    """When the first day began that is not closed."""
    queued_after: datetime
    """What was queued after this moment and has failed can be restarted."""


def pass_frequency_gate(
    connection: Connection,
    release_id: int,
    time_zone: ZoneInfo,
    now: datetime,
    wished: WishedPolicy | None = None,
) -> None:
    """Bypass the recipients of a release whom the policy forbids, and give everybody else a place where it counts.

    Part of the transaction that made the recipients. A dry run bypasses whom a release would, also by a policy that is
    only `wished` yet, and changes nothing else: what enabling that would give places to counts as if it had them.
    """
    release = connection.execute(STATEMENTS["find_release_at_gate"], {"release_id": release_id}).one()
    is_checked = release.frequency_policy != CampaignPolicy.OVERRIDE_POLICY
    takes_places = release.counts and not release.is_dry_run
    if not is_checked and not takes_places:
        return
    if not release.is_dry_run:
        # Also where no policy holds: whoever enables one gives places to all that have passed here, and none is missed.
        lock_frequency(connection, release.installation_id)
    in_force = policy_in_force(connection, release.installation_id)
    is_counted, is_enabled = True, in_force is not None
    if release.is_dry_run:
        in_force, is_counted = _foreseen(in_force, wished, day_of(now, time_zone), now)
    if in_force is None:
        return
    if is_checked:
        uncounted = None if is_enabled else wished
        _stop_those_it_forbids(connection, release, in_force, is_counted, uncounted, time_zone, now)
        crash_point("gate_held")
    if takes_places:
        take_places(connection, release_id, release.released_on)
        crash_point("gate_places_taken")


def take_places(connection: Connection, release_id: int, released_on: date) -> None:
    """Give everybody whom nothing stopped before the gate a place, in a release that has none. Needs the lock."""
    key = {"release_id": release_id, "released_on": released_on}
    connection.execute(STATEMENTS["take_places"], key)
    connection.execute(STATEMENTS["mark_places_taken"], key)


def _foreseen(
    in_force: PolicyInForce | None, wished: WishedPolicy | None, today: date, now: datetime
) -> tuple[PolicyInForce | None, bool]:
    """The policy that would hold for a release made now, and whether the counters count by it already."""
    if (found := wished or in_force) is None:
        return None, False
    policy = found.policy
    is_counted = (
        in_force is not None
        and in_force.counted_for >= today
        and (in_force.policy.rules, in_force.window) == (policy.rules, policy.window)
    )
    return PolicyInForce(policy=policy, counted_for=today, applied_at=now), is_counted


def _foresee_mails(connection: Connection, wished: WishedPolicy, time_zone: ZoneInfo, now: datetime) -> None:
    for release_id, released_on in wished.without_places:
        connection.execute(
            STATEMENTS["foresee_mails"],
            {
                "release_id": release_id,
                "released_on": released_on,
                "open_since": wished.open_since,
                "queued_after": wished.queued_after,
                "time_zone": time_zone.key,
                "now": now,
            },
        )
    # A million of them would be taken for few: nothing else ever counts the rows of a temporary table.
    analyze(connection, "foreseen_mail")


def _stop_those_it_forbids(
    connection: Connection,
    release: Row[Any],
    in_force: PolicyInForce,
    is_counted: bool,
    uncounted: WishedPolicy | None,
    time_zone: ZoneInfo,
    now: datetime,
) -> None:
    key = {"release_id": release.release_id, "released_on": release.released_on}
    waits = in_force.policy.hold and release.frequency_policy == CampaignPolicy.PER_POLICY
    connection.execute(STATEMENTS["make_forbidden_recipients"])
    rules = in_force.policy.rules
    found = {**key, "reason": "held" if waits else "discarded"}
    if release.frequency_rules is None and is_counted:
        connection.execute(STATEMENTS["find_forbidden"], {**found, "most": in_force.most})
    else:
        if release.frequency_rules is not None:
            rules = rules_of_document(release.frequency_rules)
        connection.execute(STATEMENTS["make_foreseen_mails"])
        if uncounted is not None:
            _foresee_mails(connection, uncounted, time_zone, now)
        firsts = [first_day(rule, in_force.window, in_force.counted_for) for rule in rules]
        connection.execute(
            STATEMENTS["find_forbidden_by_own_rules"],
            {**found, "most": [rule.max_mails for rule in rules], "firsts": firsts, "first": min(firsts)},
        )
    if waits and release.occurrence:
        campaign = {"campaign_id": release.campaign_id, "occurrence": release.occurrence, "now": now}
        connection.execute(STATEMENTS["expire_while_earlier_waits"], campaign)
    connection.execute(STATEMENTS["bypass_forbidden"], {**key, "details": [str(rule) for rule in rules]})
    # Whoever reads the recipients next joins with these rows.
    analyze(connection, partition_of("bypass", release.released_on))
    if waits and not release.is_dry_run:
        _hold(connection, release, in_force, rules, time_zone, now)


def _hold(
    connection: Connection,
    release: Row[Any],
    in_force: PolicyInForce,
    rules: Sequence[Rule],
    time_zone: ZoneInfo,
    now: datetime,
) -> None:
    """Put the mails of those who are bypassed into the queue, or into its log where they expire at once."""
    shelf_life_days = release.shelf_life_days or in_force.policy.shelf_life_days
    waiting = {
        "release_id": release.release_id,
        "most": [rule.max_mails for rule in rules],
        "days": [rule.days for rule in rules],
        "now": now,
        "shelf_life_ends_at": shelf_life_ends(day_of(now, time_zone), shelf_life_days, time_zone),
    }
    connection.execute(STATEMENTS["hold_mails"], waiting)
    if release.occurrence:
        logged_on = now.astimezone(UTC).date()
        ensure_day(connection, logged_on)
        connection.execute(STATEMENTS["log_expired_at_once"], {**waiting, "day": logged_on})

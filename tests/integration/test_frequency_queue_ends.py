"""How the wait of a held mail ends when nobody sends it, or the policy is disabled (spec 8.4, 8.9)."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from mail_orchestration.dispatch.campaigns import delete_campaign, pause_campaign, resume_campaign
from mail_orchestration.dispatch.held_mails import HeldMailEnding
from mail_orchestration.frequency.disabling import disable_policy, what_disabling_does
from mail_orchestration.frequency.queue import counts, delete, empty, rescan
from mail_orchestration.frequency.releasing import release_held
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import NotFound, StateConflict
from tests.integration.frequency_queue_world import (
    LONG,
    WEEK,
    at_its_limit,
    endings,
    first_waiting,
    important,
    next_week,
    waiting,
)
from tests.integration.frequency_world import FrequencyWorld, database, days_later

__all__ = ["database"]


@pytest.mark.rule("8.4")
def test_a_shelf_life_and_a_campaigns_expiry_end_the_wait(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 30)], contacts=2, shelf_life_days=5)
    important(world, days_later(0), 0, "opens")
    shelf = important(world, days_later(1), 0, "shelf")
    dated = important(world, days_later(1), 0, "dated", expires_at=days_later(3))
    long = important(world, days_later(1), 0, "long", shelf_life_days=20)
    assert release_held(world.inst, now=days_later(2.9)).ended == {}
    assert release_held(world.inst, now=days_later(3)).ended == {HeldMailEnding.EXPIRED: 2}
    # Held on the day after the first, a shelf life of five days is over as the seventh day begins.
    assert release_held(world.inst, now=days_later(6)).ended == {}
    world.night(days_later(7))
    assert release_held(world.inst, now=days_later(7)).ended == {HeldMailEnding.EXPIRED: 2}
    assert waiting(world) == [(long, 1), (long, 2)]
    assert endings(world) == {(each, no): "expired" for each in (shelf, dated) for no in (1, 2)}


@pytest.mark.rule("8.4", "6.5")
def test_a_shelf_life_that_ends_as_the_rule_lets_go_outlasts_a_clean_up_before_the_close(
    database: Database,
) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=2)
    important(world, days_later(0), 0, "opens")
    held = important(world, days_later(0.1), 0, "held")
    midnight = days_later(7.5)
    # The clean-up looks through the queue as the day begins, by counters of yesterday.
    assert release_held(world.inst, now=midnight).ended == {}
    assert waiting(world) == [(held, 1), (held, 2)]
    world.night(midnight + timedelta(minutes=15))
    (later,) = release_held(world.inst, now=midnight + timedelta(minutes=15)).later
    assert (later.held_from, later.mails) == (held, 2)


@pytest.mark.rule("8.4")
def test_what_a_missed_night_would_have_let_go_goes_late_and_does_not_expire(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 2)], contacts=2, shelf_life_days=3)
    important(world, days_later(0), 0, "opens")
    first = important(world, days_later(1), 1, "first")
    second = important(world, days_later(1.1), 0, "second")
    # Nobody closes a day any more. A mail of the first day counts on two more; so does what goes then, and until the
    # shelf life ends, on the fifth day, no second one has become free. The clean-up ends nothing meanwhile.
    late = days_later(12)
    idle = release_held(world.inst, now=late)
    assert (idle.mails, idle.ended, idle.waiting) == (0, {}, 4)
    done = rescan(world.inst, now=late)
    (later,) = done.released.later
    assert (later.held_from, later.mails) == (first, 2)
    assert done.released.ended == {HeldMailEnding.EXPIRED: 2}
    assert endings(world) == {
        (first, 1): "sent",
        (first, 2): "sent",
        (second, 1): "expired",
        (second, 2): "expired",
    }
    assert world.faults() == []


@pytest.mark.rule("8.4")
def test_nights_are_caught_up_with_one_by_one(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 1), (2, 4)], contacts=1, shelf_life_days=2)
    important(world, days_later(0), 0, "opens")
    dull = important(world, days_later(0.1), 0, "dull")
    long = important(world, days_later(0.2), 5, "long", shelf_life_days=20)
    # Night by night "long" goes first, on the second day after, and "dull" would have been free no earlier.
    done = rescan(world.inst, now=days_later(4))
    assert [each.held_from for each in done.released.later] == [long]
    assert endings(world) == {(long, 1): "sent", (dull, 1): "expired"}


@pytest.mark.rule("8.4")
def test_a_night_that_was_cut_off_before_it_let_anything_go_is_finished_first(database: Database) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=2)
    important(world, days_later(0), 0, "opens")
    held = important(world, days_later(0.1), 0, "held")
    world.night(days_later(8))
    (later,) = rescan(world.inst, now=days_later(9)).released.later
    assert (later.held_from, later.mails) == (held, 2)


@pytest.mark.rule("3.6", "8.4")
def test_what_its_campaigns_expiry_has_ended_is_not_let_go_after_missed_nights(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 2)], contacts=2, shelf_life_days=9)
    important(world, days_later(0), 0, "opens")
    dated = important(world, days_later(1), 0, "dated", expires_at=days_later(5))
    assert rescan(world.inst, now=days_later(7)).released.later == []
    assert endings(world) == {(dated, no): "expired" for no in (1, 2)}


@pytest.mark.rule("8.4")
def test_disabling_after_missed_nights_sends_what_they_would_have_let_go(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 2)], contacts=2, shelf_life_days=3)
    important(world, days_later(0), 0, "opens")
    held = important(world, days_later(1), 0, "held")
    world.wishes()
    (later,) = disable_policy(world.inst, by="me", now=days_later(12)).released.later
    assert (later.held_from, later.mails) == (held, 2)


@pytest.mark.rule("8.4")
@pytest.mark.parametrize("day", [8, 9])
def test_disabling_after_a_night_that_was_cut_off_sends_what_it_would_have_let_go(
    database: Database, day: int
) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=2)
    important(world, days_later(0), 0, "opens")
    held = important(world, days_later(0.1), 0, "held")
    world.night(days_later(8))
    world.wishes()
    (later,) = disable_policy(world.inst, by="me", now=days_later(day)).released.later
    assert (later.held_from, later.mails) == (held, 2)


@pytest.mark.rule("8.9")
def test_the_operator_deletes_some_of_a_campaign_or_all(database: Database) -> None:
    world, held = at_its_limit(database)
    other = world.released(days_later(1), campaign="third")
    world.becomes(other, "STOPPED", days_later(1))
    first = first_waiting(world)
    with pytest.raises(NotFound, match="no held mail of the number 4711 waits"):
        delete(world.inst, [first, 4711], by="me", now=days_later(2))
    assert len(waiting(world)) == 6
    assert delete(world.inst, [first], by="me", now=days_later(2)) == 1
    assert waiting(world) == [(held, 2), (held, 3), (other, 1), (other, 2), (other, 3)]
    with pytest.raises(NotFound, match="there is no campaign 'fourth'"):
        empty(world.inst, campaign="fourth", by="me", now=days_later(2))
    assert empty(world.inst, campaign="third", by="me", now=days_later(2)) == 3
    assert [(each.campaign, str(each.held_by), each.mails) for each in counts(world.inst)] == [
        ("second", "1 in 7 days", 2)
    ]
    assert empty(world.inst, by="me", now=days_later(2)) == 2
    assert waiting(world) == []
    assert set(endings(world).values()) == {"deleted"}
    assert world.rows(
        "SELECT DISTINCT ended_by FROM held_mail_log WHERE installation_id = :i", i=world.inst.installation_id
    ) == [("me",)]
    assert not next_week(world).later


@pytest.mark.rule("8.4")
def test_disabling_sends_all_that_waits_and_forgets_the_history(database: Database) -> None:
    world, held = at_its_limit(database)
    expired = world.released(days_later(1), campaign="third", shelf_life_days=1)
    world.becomes(expired, "STOPPED", days_later(1))
    world.night(days_later(3))
    with pytest.raises(StateConflict, match="enabled: false"):
        disable_policy(world.inst, by="me", now=days_later(3))
    world.wishes(None)
    world.night(days_later(3))
    forecast = what_disabling_does(world.inst)
    assert (forecast.mails, forecast.history.mails, forecast.history.days) == (6, 3, 1)
    done = disable_policy(world.inst, by="me", now=days_later(3))
    (later,) = done.released.later
    assert (later.held_from, later.mails) == (held, 3)
    assert done.released.ended == {HeldMailEnding.EXPIRED: 3}
    assert {endings(world)[held, no] for no in (1, 2, 3)} == {"policy_disabled"}
    for table in ("frequency_policy", "frequency_counter", "daily_mail_count", "held_mail"):
        left = world.rows(
            f"SELECT count(*) FROM {table} WHERE installation_id = :i", i=world.inst.installation_id
        )
        assert left == [(0,)], table
    with pytest.raises(StateConflict, match="no frequency policy holds"):
        disable_policy(world.inst, by="me", now=days_later(3))


@pytest.mark.rule("8.4")
def test_what_was_forgotten_is_not_counted_again(database: Database) -> None:
    world, _ = at_its_limit(database)
    empty(world.inst, by="me", now=days_later(2))
    world.wishes(None)
    disable_policy(world.inst, by="me", now=days_later(3))
    world.wishes([(1, WEEK)])
    world.night(days_later(4))
    assert world.log() == {}
    assert world.passed(world.released(days_later(4), campaign="fourth")) == {1, 2, 3}
    assert world.faults() == []


@pytest.mark.rule("3.4", "8.4")
def test_a_paused_campaign_holds_its_held_mails_and_a_deleted_one_ends_them(database: Database) -> None:
    world, _ = at_its_limit(database, contacts=2)
    other = world.released(days_later(1), campaign="third")
    world.becomes(other, "STOPPED", days_later(1))
    with database.begin() as connection:
        pause_campaign(connection, world.inst.installation_id, "second")
    (later,) = next_week(world).later
    assert later.held_from == other
    with database.begin() as connection:
        resume_campaign(connection, world.inst.installation_id, "second")
        change = delete_campaign(connection, world.inst.installation_id, "second", days_later(9))
    assert change.held == 2
    assert waiting(world) == []
    assert Counter(endings(world).values()) == {"sent": 2, "campaign_deleted": 2}


@pytest.mark.rule("8.4")
@pytest.mark.parametrize(
    ("state", "ends"), [("QUEUING", None), ("STOPPED_Q", None), ("FINISHED", "sent"), ("STOPPED", "sent")]
)
def test_held_mails_go_with_what_they_were_held_in(database: Database, state: str, ends: str | None) -> None:
    """It is to be queued first, and what the operator stopped rests. STOPPED here: nobody was left but those held."""
    world, held = at_its_limit(database, contacts=2)
    world.becomes(held, state, days_later(1))
    next_week(world)
    assert endings(world) == ({} if ends is None else {(held, 1): ends, (held, 2): ends})


@pytest.mark.rule("8.4")
@pytest.mark.parametrize("state", ["STOPPED", "FAILED"])
def test_of_what_was_stopped_or_failed_before_it_was_queued_nothing_is_sent_later(
    database: Database, state: str
) -> None:
    world = FrequencyWorld(database, [(1, WEEK)], contacts=2, **LONG)
    world.sent(world.released(days_later(0), [1], campaign="first"), days_later(0))
    held = world.released(days_later(1), campaign="second")
    assert waiting(world) == [(held, 1)]
    world.execute(
        "UPDATE mail_job SET state = CAST(:state AS mail_job_state), ended_at = now() WHERE mail_job_id = :r",
        state=state,
        r=held,
    )
    assert next_week(world).ended == {HeldMailEnding.STOPPED: 1}
    assert endings(world) == {(held, 1): "stopped"}

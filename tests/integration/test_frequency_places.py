"""A place ends once: the close of a day moves it into the log, or it is given back when the mail never arrives."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from mail_orchestration.feedback.frequency_figures import wrong_places
from mail_orchestration.kernel.database import Database
from tests.integration.frequency_world import NOON, FrequencyWorld, database, days_later

__all__ = ["database"]

DAY = NOON.date()
pytestmark = pytest.mark.rule("8.2")


def test_the_close_of_the_day_moves_places_into_the_log_once(database: Database) -> None:
    world = FrequencyWorld(database)
    for _ in range(2):
        world.sent(world.released(NOON), NOON)
    assert world.places() == {1: 2, 2: 2, 3: 2}
    for night in (1, 1.1, 4):
        world.night(days_later(night))
        assert world.places() == {}
        assert world.log() == {(DAY, no): (2, 2) for no in (1, 2, 3)}
        assert world.faults() == []


@pytest.mark.rule("5.7")
def test_what_never_arrives_gives_its_place_back_and_what_may_have_arrived_keeps_it(
    database: Database,
) -> None:
    world = FrequencyWorld(database, contacts=9)
    outcomes = {
        1: "accepted",
        2: "rejected",
        3: "uncertain",
        4: "deferred rejected",
        5: "uncertain rejected",
        6: "stopped",
        7: "deferred expired",
        8: "deferred accepted",
    }
    release_id = world.released(NOON)
    for no, outcome in outcomes.items():
        for result_no, word in enumerate(outcome.split(), start=1):
            world.result(release_id, no, word, NOON, result_no)
    world.becomes(release_id, "RUNNING", NOON)
    assert world.night(NOON).given_back == 4
    assert world.places() == {1: 1, 3: 1, 5: 1, 8: 1, 9: 1}
    assert world.night(NOON).given_back == 0
    world.night(days_later(1))
    # The mail of 9 is on its way still.
    assert world.places() == {9: 1}
    assert {no for _, no in world.log()} == {1, 3, 5, 8}
    assert world.faults() == []


def test_a_dead_letter_keeps_its_place_until_the_operator_deletes_it(database: Database) -> None:
    world = FrequencyWorld(database, contacts=1)
    release_id = world.released(NOON)
    world.sent(release_id, NOON, "deferred")
    world.execute(
        "INSERT INTO loose_mail (installation_id, kind, state, due_at, campaign_id, contact_id, address, released_on, "
        "release_id, message_no, mail_job_id, result_no, last_outcome) "
        "SELECT :i, 'retry', 'FAILED', :at, r.campaign_id, p.contact_id, 'r1', r.released_on, r.release_id, 1, "
        "r.release_id, 1, 'deferred' FROM release AS r JOIN recipient AS p USING (release_id) WHERE r.release_id = :r",
        i=world.inst.installation_id,
        r=release_id,
        at=NOON,
    )
    assert world.night(days_later(30)).given_back == 0
    assert world.places() == {1: 1}
    world.execute("DELETE FROM loose_mail WHERE release_id = :r", r=release_id)
    assert world.night(days_later(30)).given_back == 1
    assert world.places() == {}


@pytest.mark.parametrize("stage", ["verify", "cookies", "compose"])
def test_who_is_bypassed_after_the_gate_gives_the_place_back(database: Database, stage: str) -> None:
    world = FrequencyWorld(database)
    release_id = world.released(NOON)
    world.execute(
        "INSERT INTO bypass SELECT released_on, release_id, recipient_no, :stage, 'reason', '' FROM recipient "
        "WHERE release_id = :r AND recipient_no = 1",
        stage=stage,
        r=release_id,
    )
    assert world.night(NOON).given_back == 1
    assert world.places() == {2: 1, 3: 1}
    assert world.faults() == []


def test_what_can_be_sent_still_keeps_its_place_and_then_all_is_given_back(database: Database) -> None:
    world = FrequencyWorld(database)
    stopped, failed, never_queued = (world.released(NOON) for _ in range(3))
    world.becomes(stopped, "STOPPED_Q", NOON)
    world.becomes(failed, "FAILED", NOON)
    world.becomes(never_queued, "FAILED", NOON)
    world.execute("UPDATE mail_job SET first_message = NULL WHERE mail_job_id = :r", r=never_queued)
    assert world.night(days_later(3.9)).given_back == 3
    assert world.places() == {1: 2, 2: 2, 3: 2}
    # What failed was queued more than 96 hours ago: nobody would recover it.
    assert world.night(days_later(4.1)).given_back == 3
    world.becomes(stopped, "STOPPED", days_later(30))
    assert world.night(days_later(30)).given_back == 3
    assert world.places() == {}
    assert world.faults() == []


@pytest.mark.rule("3.6")
def test_what_has_expired_is_sent_no_more_though_it_was_only_stopped(database: Database) -> None:
    world = FrequencyWorld(database)
    release_id = world.released(NOON, expires_at=days_later(1))
    world.becomes(release_id, "STOPPED_R", NOON)
    assert world.night(days_later(1)).given_back == 0
    assert world.night(days_later(1.1)).given_back == 3


def test_a_mail_that_arrives_after_its_place_was_given_back_counts_and_takes_no_others(
    database: Database,
) -> None:
    world = FrequencyWorld(database, contacts=1)
    release_id, other = world.released(NOON), world.released(NOON)
    world.becomes(release_id, "STOPPED", NOON)
    assert world.night(NOON).given_back == 1
    world.result(release_id, 1, "accepted", NOON)
    world.night(days_later(1))
    assert world.places() == {1: 1}
    assert world.log() == {(DAY, 1): (1, 0)}
    world.sent(other, days_later(1))
    world.night(days_later(2))
    assert world.faults() == []


def test_a_result_that_is_written_long_after_the_day_was_closed_is_not_lost(database: Database) -> None:
    world = FrequencyWorld(database)
    release_id = world.released(NOON)
    world.becomes(release_id, "RUNNING", NOON)
    world.night(days_later(2))
    # A mailcaster that was suspended over two nights writes down what the relay said before.
    world.sent(release_id, NOON)
    world.becomes(release_id, "FINISHED", days_later(2.1))
    world.night(days_later(2.2))
    assert world.places() == {}
    assert world.log() == {(DAY, no): (1, 1) for no in (1, 2, 3)}
    assert world.faults() == []


def test_nights_that_are_missed_only_hold_too_much(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 7)], contacts=1)
    world.sent(world.released(NOON), NOON)
    world.night(days_later(1))
    assert world.passed(world.released(days_later(7.4), upkeep=False)) == set()
    # The window has passed; without the night's run the counters do not know it.
    assert world.passed(world.released(days_later(8), upkeep=False)) == set()
    assert world.night(days_later(8)).is_counted_anew
    assert world.passed(world.released(days_later(8), upkeep=False)) == {1}


@pytest.mark.rule("8.1")
def test_other_rules_count_what_the_log_has(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 1)], contacts=1)
    for day in range(4):
        world.sent(world.released(days_later(2 * day)), days_later(2 * day))
    assert world.night(days_later(8)).is_rules_changed is False
    world.wishes([(4, 6), (4, 30)])
    assert world.night(days_later(8)).is_rules_changed
    assert world.faults() == []
    assert world.bypassed(world.released(days_later(8))) == {1: ("held", "4 in 30 days")}
    world.wishes([(4, 6), (4, 30)], shelf_life_days=2)
    assert not world.night(days_later(8)).is_rules_changed
    world.released(days_later(8))
    expires = world.rows(
        "SELECT max(expires_at) FROM held_mail WHERE contact_id = :c", c=world.contact_ids[0]
    )
    assert expires == [(days_later(15.5),)]


@pytest.mark.rule("8.1")
def test_a_policy_that_is_enabled_counts_what_was_sent_and_what_is_on_its_way(database: Database) -> None:
    world = FrequencyWorld(database, contacts=4)
    world.wishes(None)
    ended, ended_today, running, _ = (
        world.released(NOON, to, counts=to != {4}) for to in ({1}, {2}, {1, 2, 3}, {4})
    )
    world.sent(ended, NOON)
    world.result(running, 1, "accepted", NOON)
    world.becomes(running, "RUNNING", NOON)
    world.night(days_later(1))
    world.sent(ended_today, days_later(1))
    world.wishes([(2, 7)])
    assert world.night(days_later(1)).is_rules_changed
    assert world.places() == {2: 2, 3: 1}
    assert world.log() == {(DAY, 1): (2, 1)}
    assert world.faults() == []
    assert world.passed(world.released(days_later(1))) == {3, 4}


@pytest.mark.rule("8.4")
def test_a_policy_that_is_not_wished_any_more_holds_until_the_operator_confirms(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 7)], contacts=1)
    world.sent(world.released(NOON), NOON)
    world.wishes(None)
    assert world.passed(world.released(days_later(1))) == set()


def test_what_was_sent_before_the_log_begins_is_forgotten(database: Database) -> None:
    world = FrequencyWorld(database, [(1, 7)], contacts=2)
    early, late = world.released(NOON, {1}), world.released(NOON, {2})
    world.sent(early, NOON)
    world.sent(late, NOON + timedelta(hours=2))
    world.execute(
        "UPDATE installation SET log_begins_at = :at WHERE installation_id = :i",
        at=NOON + timedelta(hours=1),
        i=world.inst.installation_id,
    )
    world.night(days_later(1))
    assert world.log() == {(DAY, 2): (1, 1)}
    assert world.places() == {}


def test_days_are_those_of_the_installation(database: Database) -> None:
    world = FrequencyWorld(database, contacts=1, time_zone="Europe/Berlin")
    late = NOON.replace(hour=22, minute=30)
    world.sent(world.released(late), late)
    world.night(late + timedelta(hours=1))
    assert world.places() == {1: 1}
    world.night(late + timedelta(days=1))
    assert world.log() == {(date(2026, 5, 21), 1): (1, 1)}


@pytest.mark.parametrize("more", [1, -1])
def test_a_place_that_nobody_has_or_that_somebody_lacks_is_found(database: Database, more: int) -> None:
    world = FrequencyWorld(database, contacts=4)
    world.sent(world.released(NOON, [1, 2]), NOON)
    under_way = world.released(days_later(1), [2, 3])
    world.becomes(under_way, "RUNNING", days_later(1))
    world.night(days_later(1))
    assert world.places() == {2: 1, 3: 1}
    inst = world.inst

    def wrong() -> int:
        with database.begin() as connection:
            return wrong_places(connection, inst.installation_id, inst.settings.zone)

    for number, contact_id in enumerate(world.contact_ids):
        assert wrong() == number
        world.execute(
            "INSERT INTO frequency_counter AS c (contact_id, installation_id, places) VALUES (:c, :i, :more) "
            "ON CONFLICT (contact_id) DO UPDATE SET places = c.places + :more",
            c=contact_id,
            i=inst.installation_id,
            more=more,
        )
    assert wrong() == 4

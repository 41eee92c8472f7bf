"""Damaged counters and places are right after `frequency rescan --anew`, and held mails go by them."""

from __future__ import annotations

import pytest

from mail_orchestration.feedback.frequency_correction import Corrected
from mail_orchestration.frequency.disabling import disable_policy
from mail_orchestration.frequency.queue import rescan
from mail_orchestration.kernel.database import Database
from tests.integration.frequency_world import FrequencyWorld, database, days_later

__all__ = ["database"]
ONE_IN_SEVEN = [(1, 7)]
pytestmark = [pytest.mark.rule("8.2"), pytest.mark.rule("8.9")]


def damage(world: FrequencyWorld, no: int, change: str) -> None:
    """Do to the counters of a contact what the library never does."""
    world.execute(f"UPDATE frequency_counter SET {change} WHERE contact_id = :c", c=world.contact_ids[no - 1])


def test_what_is_wrong_is_corrected_on_the_day_that_is_counted_for_and_who_was_held_for_it_gets_the_mail(
    database: Database,
) -> None:
    world = FrequencyWorld(database, ONE_IN_SEVEN, contacts=6, shelf_life_days=30)
    world.sent(world.released(days_later(0), [1, 2, 5], campaign="first"), days_later(0))
    world.becomes(world.released(days_later(1), [3], campaign="under way"), "RUNNING", days_later(1))
    world.sent(world.released(days_later(-20), [4, 6], campaign="long ago"), days_later(-20))
    world.night(days_later(1))
    damage(world, 4, "places = 1")
    damage(world, 6, "mails_1 = 1")
    held = world.released(days_later(1.1), campaign="second", upkeep=False)
    world.becomes(held, "STOPPED", days_later(1.1))
    assert world.waiting() == {(held, no) for no in (1, 2, 3, 4, 5, 6)}
    world.execute("DELETE FROM frequency_counter WHERE contact_id = :c", c=world.contact_ids[0])
    damage(world, 2, "mails_1 = 0")
    damage(world, 3, "places = -1")

    done = rescan(world.inst, anew=True, now=days_later(1.2))

    assert done.corrected == Corrected(counters=3, places=2)
    assert world.faults() == []
    assert world.waiting() == {(held, no) for no in (1, 2, 3, 5)}
    assert done.released.mails == 2
    assert world.places() == {3: 1, 4: 1, 6: 1}
    again = rescan(world.inst, anew=True, now=days_later(1.3))
    assert again.corrected == Corrected()
    assert again.released.mails == 0


def test_a_place_that_has_gone_or_will_go_into_the_log_is_not_given_twice(database: Database) -> None:
    world = FrequencyWorld(database, contacts=3)
    release_id = world.released(days_later(0))
    world.becomes(release_id, "RUNNING", days_later(0))
    world.result(release_id, 1, "accepted", days_later(0))
    world.night(days_later(1))
    world.result(release_id, 2, "accepted", days_later(0))
    assert world.places() == {2: 1, 3: 1}
    for no in (1, 2, 3):
        damage(world, no, "places = 4")

    rescan(world.inst, anew=True, now=days_later(1))

    assert world.places() == {3: 1}
    assert {no for _, no in world.log()} == {1, 2}
    world.result(release_id, 3, "accepted", days_later(1))
    world.becomes(release_id, "FINISHED", days_later(1))
    world.night(days_later(2))
    assert world.places() == {}
    assert world.faults() == []


def test_what_arrived_before_the_log_begins_keeps_its_place_until_its_release_ends(
    database: Database,
) -> None:
    world = FrequencyWorld(database, contacts=2)
    release_id = world.released(days_later(0))
    world.becomes(release_id, "RUNNING", days_later(0))
    world.result(release_id, 1, "accepted", days_later(0))
    world.wishes()
    disable_policy(world.inst, by="operator", now=days_later(0.2))
    world.wishes([(3, 7)])
    world.night(days_later(1))
    assert world.places() == {1: 1, 2: 1}
    damage(world, 1, "places = 3")
    damage(world, 2, "places = 0")

    done = rescan(world.inst, anew=True, now=days_later(1))

    assert done.corrected == Corrected(places=2)
    assert world.places() == {1: 1, 2: 1}
    world.result(release_id, 2, "rejected", days_later(1))
    world.becomes(release_id, "FINISHED", days_later(1))
    world.night(days_later(2))
    assert world.places() == {}
    assert world.faults() == []


def test_where_no_policy_holds_nothing_is_corrected(database: Database) -> None:
    world = FrequencyWorld(database)
    world.wishes()
    assert rescan(world.inst, anew=True, now=days_later(1)).corrected == Corrected()

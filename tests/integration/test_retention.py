"""Clean delivery queue drops what is past its retention, by partition (spec 6.5)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.message_store import read_message
from mail_orchestration.dispatch.operating import signs_now
from mail_orchestration.dispatch.restarting import restart_mail_job
from mail_orchestration.dispatch.retention import try_lock_retention
from mail_orchestration.feedback.books import books
from mail_orchestration.kernel import partitions
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.fleet_settings import DispatcherSettings
from mail_orchestration.kernel.retention_settings import RetentionSettings
from mail_orchestration.maintenance.retention import Retained, drop_what_is_old
from tests.integration.feedback_fixtures import (
    a_result,
    add_installation,
    add_results,
    execute,
)
from tests.integration.retention_world import MESSAGES, OF_RELEASES, World, world

__all__ = ["world"]

pytestmark = pytest.mark.rule("6.5")


def test_each_table_is_dropped_when_its_time_is_over(world: World) -> None:
    of_release = {days: world.release(days, Outcome.ACCEPTED, Outcome.REJECTED) for days in (1, 21, 41)}
    execute(world.database, "SELECT ensure_day_partitions(:day)", day=world.day(101))
    world.close_days()
    everything = OF_RELEASES | {
        "delivery_log",
        "loose_mail_message",
        "held_mail_log",
        "queue_history",
        "daily_mail_count",
    }
    assert world.tables(41) == everything

    retained = world.clean()
    assert (retained.kept, retained.in_use) == ([], [])
    assert world.tables(1) == everything
    assert world.tables(21) == everything - MESSAGES - {"loose_mail_message", "queue_history"}
    assert world.tables(41) == {"daily_mail_count"}
    assert world.tables(101) == set()
    assert len(retained.dropped) == 4 + 10 + 11
    assert sum(each.octets for each in retained.dropped) > 0
    assert world.clean() == Retained()

    with world.database.begin() as connection:
        # Without its messages the books of the second one balance still.
        found = books(connection, of_release[21].release_id)
        assert (found.balances, found.accepted, found.rejected, found.bypassed_count) == (True, 1, 1, 1)
        with pytest.raises(NotFound, match="past its retention"):
            read_message(connection, of_release[21].release_id, message_no=1)
        with pytest.raises(NotFound, match="are past their retention, and were dropped on"):
            books(connection, of_release[41].release_id)
        assert read_message(connection, of_release[1].release_id, message_no=1).recipient_no == 1


def test_the_longest_retention_of_all_installations_counts(world: World) -> None:
    world.release(50, Outcome.ACCEPTED)
    world.close_days()
    other = add_installation(world.database, "other")
    assert world.clean().dropped, "of the history, which the other one keeps for as long"
    assert world.tables(50) >= OF_RELEASES, (
        "it has said nothing, and so keeps results for as long as is usual"
    )
    drop_what_is_old(
        world.database, other, RetentionSettings(messages_days=30, results_days=45, records_days=60)
    )
    assert world.tables(50) == {"daily_mail_count", "delivery_log", "held_mail_log"}


def test_who_inserts_does_not_wait_and_what_is_in_use_is_dropped_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.release(50, Outcome.ACCEPTED)
    today = world.release(0)
    world.close_days()
    monkeypatch.setattr(partitions, "PATIENCE_S", 2)
    with ThreadPoolExecutor(max_workers=1) as pool, world.database.begin() as reader:
        reader.execute(text("SELECT count(*) FROM result"))
        cleaning = pool.submit(world.clean)
        with world.database.connect_autocommit() as connection:
            while not connection.scalar(
                text(
                    "SELECT count(*) FROM pg_inherits, pg_sleep(0.02) WHERE inhdetachpending "
                    "AND inhparent = CAST('result' AS regclass)"
                )
            ):
                assert not cleaning.done()
        with world.database.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
            connection.execute(text("SELECT count(*) FROM result"))
        add_results(world.database, today, [a_result(1)])
        retained = cleaning.result(timeout=60)
        name = f"result_{world.day(50):%Y%m%d}"
        assert retained.in_use == [name]
        assert world.tables(50) == {"daily_mail_count", "result"}
    # Taken out of its table halfway; the next clean-up goes on from there.
    assert [each.name for each in world.clean().dropped] == [name]


def test_what_a_crash_left_out_of_its_table_is_dropped(world: World) -> None:
    world.release(50, Outcome.ACCEPTED)
    execute(world.database, f"ALTER TABLE result DETACH PARTITION result_{world.day(50):%Y%m%d}")
    retained = world.clean(RetentionSettings())
    assert next((each.parent, each.day) for each in retained.dropped) == ("result", world.day(50))
    assert "recipient" in world.tables(50)


def test_of_two_clean_ups_at_once_one_drops(world: World) -> None:
    execute(world.database, "SELECT ensure_day_partitions(:day)", day=world.day(50))
    with world.database.dedicated() as other:
        assert try_lock_retention(other)
        assert world.clean() == Retained()
    assert world.clean().dropped


def test_what_was_dropped_is_not_restarted(world: World) -> None:
    failed = world.release(50, Outcome.ACCEPTED, state="FAILED")
    world.close_days()

    def restart() -> str:
        with world.database.begin() as connection:
            [done] = restart_mail_job(
                connection,
                world.installation_id,
                failed.release_id,
                signs_now(connection, DispatcherSettings()),
                expire_in_hours=None,
                failed_too=True,
            )
            connection.rollback()
        return done.note or done.entered.value

    assert restart() == "RECOVERING"
    world.clean()
    assert restart() == "its messages are past their retention"

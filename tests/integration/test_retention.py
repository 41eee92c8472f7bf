"""Clean delivery queue drops what is past its retention, by partition, and never what is needed still (spec 6.5)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.message_store import read_message
from mail_orchestration.dispatch.operating import signs_now
from mail_orchestration.dispatch.restarting import restart_mail_job
from mail_orchestration.dispatch.retention import mail_jobs_ended_before, try_lock_retention
from mail_orchestration.feedback.books import books
from mail_orchestration.kernel import partitions
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.fleet_settings import DispatcherSettings
from mail_orchestration.kernel.model import Outcome
from mail_orchestration.kernel.partitions import day_partitions
from mail_orchestration.kernel.retention_settings import RetentionSettings
from mail_orchestration.maintenance.retention import Retained, drop_what_is_old
from tests.integration.feedback_fixtures import (
    Release,
    a_result,
    add_installation,
    add_release,
    add_results,
    execute,
)

pytestmark = pytest.mark.rule("6.5")

RETENTION = RetentionSettings(
    history_days=7,
    messages_days=20,
    results_days=40,
    delivery_log_days=30,
    daily_log_days=100,
    records_days=60,
)
OF_RELEASES = {"recipient", "bypass", "result", "assembled_message"}


@dataclass
class World:
    """An installation whose releases are of days before today."""

    database: Database
    installation_id: int
    today: date

    def day(self, days_ago: int) -> date:
        return self.today - timedelta(days=days_ago)

    def release(self, days_ago: int, *outcomes: Outcome, state: str = "FINISHED") -> Release:
        """A release of three recipients, one of them bypassed, whose results came on its day."""
        made = add_release(
            self.database,
            self.installation_id,
            recipients=3,
            messages=2,
            bypassed=[(3, "manual")],
            state=state,
            released_on=self.day(days_ago),
        )
        execute(
            self.database,
            "UPDATE mail_job SET queued_at = released_at, last_message = 2 FROM release "
            "WHERE mail_job.mail_job_id = release.release_id AND mail_job_id = :id",
            id=made.release_id,
        )
        at = noon(made.released_on)
        results = [a_result(number, outcome, at=at) for number, outcome in enumerate(outcomes, start=1)]
        if results:
            add_results(self.database, made, results)
        return made

    def close_days(self, days_ago: int = 1) -> None:
        execute(
            self.database,
            "INSERT INTO closed_day VALUES (:i, :day, now(), 0, 0) ON CONFLICT DO NOTHING",
            i=self.installation_id,
            day=self.day(days_ago),
        )

    def clean(self, retention: RetentionSettings = RETENTION) -> Retained:
        return drop_what_is_old(self.database, self.installation_id, retention)

    def tables(self, days_ago: int) -> set[str]:
        """The tables that have a partition of that day."""
        with self.database.begin() as connection:
            return {each.parent for each in day_partitions(connection) if each.day == self.day(days_ago)}


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


@pytest.fixture
def world(database: Database) -> World:
    with database.begin() as connection:
        today = database_now(connection).date()
    return World(database, add_installation(database), today)


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
    assert world.tables(21) == everything - {"assembled_message", "loose_mail_message", "queue_history"}
    assert world.tables(41) == {"daily_mail_count"}
    assert world.tables(101) == set()
    assert len(retained.dropped) == 3 + 9 + 10
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


def is_running(world: World, made: Release) -> None:
    execute(
        world.database,
        "UPDATE mail_job SET state = 'RUNNING', ended_at = NULL WHERE mail_job_id = :id",
        id=made.release_id,
    )


def has_ended(world: World, made: Release) -> None:
    execute(
        world.database,
        "UPDATE mail_job SET state = 'FINISHED', ended_at = now() WHERE mail_job_id = :id",
        id=made.release_id,
    )


def is_stopped(world: World, made: Release) -> None:
    execute(
        world.database,
        "UPDATE mail_job SET state = 'STOPPED_R', ended_at = NULL WHERE mail_job_id = :id",
        id=made.release_id,
    )


def is_uncertain(world: World, made: Release) -> None:
    add_results(world.database, made, [a_result(2, Outcome.UNCERTAIN, at=noon(made.released_on), relay="r")])


def is_settled(world: World, made: Release) -> None:
    settled = a_result(
        2,
        Outcome.ACCEPTED,
        at=noon(made.released_on),
        result_no=2,
        supersedes=Outcome.UNCERTAIN,
        relay="",
    )
    add_results(world.database, made, [settled])


def is_retried(world: World, made: Release) -> None:
    execute(
        world.database,
        "INSERT INTO loose_mail (installation_id, kind, state, due_at, campaign_id, contact_id, address, "
        "released_on, release_id, message_no, mail_job_id, result_no, last_outcome) "
        "SELECT :i, 'retry', 'FAILED', now(), campaign_id, 2, 'x@a.example', released_on, release_id, 2, "
        "release_id, 1, 'deferred' FROM release WHERE release_id = :id",
        i=world.installation_id,
        id=made.release_id,
    )


def is_not_retried(world: World, made: Release) -> None:
    execute(world.database, "DELETE FROM loose_mail")


def was_queued_late(world: World, made: Release) -> None:
    execute(
        world.database,
        "UPDATE mail_job SET queued_at = now() - interval '6 days' WHERE mail_job_id = :id",
        id=made.release_id,
    )


def was_queued_early(world: World, made: Release) -> None:
    execute(
        world.database,
        "UPDATE mail_job SET queued_at = now() - interval '8 days' WHERE mail_job_id = :id",
        id=made.release_id,
    )


def is_counted_late(world: World, made: Release) -> None:
    late = a_result(2, at=noon(world.day(1)))
    add_results(world.database, made, [late])


def is_closed(world: World, made: Release) -> None:
    world.close_days(0)


@pytest.mark.parametrize(
    ("needs", "reason", "needs_no_more", "messages_too"),
    [
        (is_running, "mail jobs that have not ended", has_ended, True),
        (is_stopped, "mail jobs that have not ended", has_ended, True),
        (is_uncertain, "uncertain messages that the operator has not settled", is_settled, True),
        (
            is_retried,
            "mails that are to be sent again, or failed and wait for the operator",
            is_not_retried,
            True,
        ),
        (was_queued_late, "mail jobs that were queued within the history", was_queued_early, False),
        (is_counted_late, "results that the daily log has not counted", is_closed, False),
    ],
)
def test_what_is_needed_stays_and_is_told(
    world: World,
    needs: Callable[[World, Release], None],
    reason: str,
    needs_no_more: Callable[[World, Release], None],
    messages_too: bool,
) -> None:
    old, other = world.release(50, Outcome.ACCEPTED), world.release(51, Outcome.ACCEPTED)
    world.close_days()
    needs(world, old)

    retained = world.clean()
    assert [(each.day, each.reason, each.number) for each in retained.kept] == [(old.released_on, reason, 1)]
    assert OF_RELEASES & world.tables(50) == OF_RELEASES - (set() if messages_too else {"assembled_message"})
    assert world.tables(51) == {"daily_mail_count"}, other

    needs_no_more(world, old)
    assert world.clean().kept == []
    assert world.tables(50) == {"daily_mail_count"}


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


def test_records_go_last(world: World) -> None:
    oldest, old, live = (world.release(days, Outcome.ACCEPTED) for days in (70, 50, 70))
    is_running(world, live)
    world.close_days()
    assert world.clean().records == 0, "a mail job of that day has not ended"
    has_ended(world, live)
    assert world.clean().records == 2
    left = execute(world.database, "SELECT mail_job_id FROM mail_job JOIN release USING (release_id)")
    assert left == [(old.release_id,)]
    with world.database.begin() as connection:
        now = database_now(connection)
        numbers = [oldest.release_id, old.release_id]
        assert mail_jobs_ended_before(connection, numbers, now - timedelta(days=365 * 100)) == {
            oldest.release_id
        }
        assert mail_jobs_ended_before(connection, numbers, now + timedelta(days=365 * 100)) == set(numbers)

"""What sensors ask for, tick by tick, and what they leave alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, tzinfo
from typing import Self

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.sensor_definition import SensorExecutionData
from sqlalchemy import text

from assets.mail_system import MailSystem
from jobs.tags import MAIL_JOBS_DONE, MAILCASTER
from mail_orchestration import holding
from mail_orchestration.broadcast import assemble_release, queue_release, release_campaign, resolve_release
from mail_orchestration.dispatch.claims import claim_next
from mail_orchestration.dispatch.mail_jobs import mail_job
from mail_orchestration.kernel import clock
from mail_orchestration.kernel.clock import utc_now
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.errors import BadSettings
from schedules.definitions import defs
from schedules.global_queue_sensor import global_queue_sensor
from schedules.partition_key_sensor import partition_key_sensor
from schedules.release_sensors import assemble_sensor, queue_for_delivery_sensor, report_sensor
from schedules.times import installation_time_zone
from tests.integration.dagster_fixtures import StoringRelay, World, relay, world

__all__ = ["relay", "world"]

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.fixture
def dagster_instance() -> Iterator[dg.DagsterInstance]:
    """A sensor's context wants an instance that outlives the process."""
    with dg.instance_for_test() as instance:
        yield instance


def tick(world: World, sensor: dg.SensorDefinition) -> SensorExecutionData:
    """One evaluation, as the daemon would have it."""
    with (
        dg.build_sensor_context(
            instance=world.instance, definitions=defs, resources={"mail": world.mail}
        ) as context,
        partition_loading_context(dynamic_partitions_store=world.instance),
    ):
        return sensor.evaluate_tick(context)


def keys(told: SensorExecutionData) -> list[str | None]:
    """The partitions that runs were asked for."""
    return [request.partition_key for request in told.run_requests or []]


def an_unfinished_run(world: World, job: str, **tags: str) -> dg.DagsterRun:
    """A run that is under way."""
    config = {"ops": {"work_a_shift": {"config": {"mailcaster": "large"}}}} if job == "mailcaster" else {}
    return world.instance.create_run_for_job(
        defs.resolve_job_def(job), status=dg.DagsterRunStatus.STARTED, tags=tags, run_config=config
    )


def test_what_comes_while_a_sensor_looks_on_is_found_by_the_same_tick(
    world: World, relay: StoringRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = world.release()
    monkeypatch.setattr("schedules.lookout.LOOK_ON_FOR_S", 120.0)
    with ThreadPoolExecutor(2) as executor:
        queueing = executor.submit(tick, world, queue_for_delivery_sensor)
        waking = executor.submit(tick, world, global_queue_sensor)
        world.run("assemble", partition_key=key)
        assert keys(queueing.result(60)) == [key]
        world.run("queue_for_delivery", partition_key=key)
        assert len(waking.result(60).run_requests or []) == 1


def test_each_release_gets_one_run_of_each_process_in_turn(world: World, relay: StoringRelay) -> None:
    assert tick(world, assemble_sensor).skip_message == "No mail job waits for this."
    key = world.release()

    told = tick(world, assemble_sensor)
    assert keys(told) == [key]
    assert told.run_requests[0].run_key is None
    assert keys(tick(world, queue_for_delivery_sensor)) == []

    world.run("assemble", partition_key=key)
    assert keys(tick(world, assemble_sensor)) == []
    assert keys(tick(world, queue_for_delivery_sensor)) == [key]

    world.run("queue_for_delivery", partition_key=key)
    assert keys(tick(world, queue_for_delivery_sensor)) == []
    assert keys(tick(world, report_sensor)) == []

    world.run("mailcaster", config={"work_a_shift": {"config": {"mailcaster": "large"}}})
    assert keys(tick(world, report_sensor)) == [key]

    world.run("report", partition_key=key)
    assert keys(tick(world, report_sensor)) == []


def test_a_release_made_elsewhere_becomes_a_partition(world: World) -> None:
    world.run("import_audiences")
    with world.installation() as opened:
        released = release_campaign(opened, world.folder / "campaigns" / "hello", now=utc_now())

    told = tick(world, assemble_sensor)

    assert keys(told) == [str(released.release_id)]
    assert world.instance.get_dynamic_partitions("mail_jobs") == [str(released.release_id)]


def test_a_release_that_is_being_assembled_is_left_alone(world: World) -> None:
    key = world.release()
    an_unfinished_run(world, "assemble", **{"dagster/partition": key})

    told = tick(world, assemble_sensor)

    assert keys(told) == []
    assert told.skip_message == f"mail job {key}: at work"


def test_a_run_that_failed_just_now_is_not_repeated_at_once(world: World) -> None:
    key = world.release()
    run = an_unfinished_run(world, "assemble", **{"dagster/partition": key})
    world.instance.report_run_failed(run)

    assert "failed less than 60 s ago" in (tick(world, assemble_sensor).skip_message or "")


@pytest.mark.rule("4.3")
def test_the_fleet_wakes_those_for_whom_there_is_work(world: World) -> None:
    assert "no work" in (tick(world, global_queue_sensor).skip_message or "")
    world.queued()

    told = tick(world, global_queue_sensor)

    [wanted] = told.run_requests or []
    assert wanted.tags[MAILCASTER] == "large"
    assert wanted.run_key is None
    assert wanted.run_config["ops"] == {
        "work_a_shift": {"config": {"mailcaster": "large", "time_budget_minutes": 60.0}}
    }


@pytest.mark.rule("5.2")
def test_a_host_whose_clock_is_hours_ahead_queues_nothing_in_the_future_and_takes_nobody_for_hanging(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(hours=3)

    monkeypatch.setattr(clock, "datetime", Ahead)
    key = world.assembled()
    world.run("queue_for_delivery", partition_key=key)
    with world.installation() as opened:
        with opened.database.begin() as connection:
            now = database_now(connection)
            queued_at = mail_job(connection, int(key)).queued_at
        assert queued_at is not None
        assert queued_at <= now, "its age counts from here (spec 5.4)"
        large = opened.settings.mailcaster("large")
        while claim_next(opened.database, opened.installation_id, large, now=now, hang_after_s=7200):
            pass

    assert "no work" in (tick(world, global_queue_sensor).skip_message or "")


def test_a_mailcaster_at_work_is_not_woken_twice(world: World) -> None:
    world.queued()
    an_unfinished_run(world, "mailcaster", **{MAILCASTER: "large"})

    assert tick(world, global_queue_sensor).skip_message == "large: at work"


@pytest.mark.rule("5.8")
def test_while_sending_is_held_nobody_is_woken_and_it_is_said_why(world: World) -> None:
    world.queued()
    holding.hold(world.mail.shared(), "the relay is being moved")
    assert "the relay is being moved" in (tick(world, global_queue_sensor).skip_message or "")
    result = world.run("mailcaster", config={"work_a_shift": {"config": {"mailcaster": "large"}}})
    [told] = [
        event.step_output_data.metadata
        for event in result.filter_events(lambda event: event.is_successful_output)
        if event.step_output_data
    ]
    assert told["ended_because"].value == "held"
    holding.resume(world.mail.shared())
    assert (tick(world, global_queue_sensor).skip_message or "").startswith("large: found nothing")


def test_a_shift_that_found_nothing_is_not_repeated_at_once(world: World) -> None:
    world.run("mailcaster", config={"work_a_shift": {"config": {"mailcaster": "large"}}})
    [record] = world.instance.get_run_records(dg.RunsFilter(job_name="mailcaster"))
    assert record.dagster_run.tags[MAIL_JOBS_DONE] == "0"
    world.queued()

    assert tick(world, global_queue_sensor).skip_message == "large: found nothing to take just now"


def test_mailcasters_that_are_added_to_the_settings_are_seen_by_the_next_tick(world: World) -> None:
    world.queued()
    assert len(tick(world, global_queue_sensor).run_requests or []) == 1

    world.write_settings(mailcasters=[*world.settings["mailcasters"], {"name": "another"}])

    assert len(tick(world, global_queue_sensor).run_requests or []) == 2


@pytest.mark.rule("6.2")
def test_a_mailcaster_that_serves_others_is_woken_for_them_while_its_own_sending_is_held(
    world: World,
) -> None:
    world.queued()
    with world.installation() as opened, opened.database.begin() as connection:
        connection.execute(text("INSERT INTO installation (name) VALUES ('hub')"))
    shared = {"name": "shared", "min_job_size": 50, "max_job_size": 120, "installations": "all"}
    unknown = {"name": "strange", "min_job_size": 50, "max_job_size": 120, "installations": ["alpha"]}
    world.write_settings(installation="hub", mailcasters=[shared, unknown])
    holding.hold(world.mail.shared(), "the hub is being moved")

    told = tick(world, global_queue_sensor)

    assert [request.tags[MAILCASTER] for request in told.run_requests or []] == ["shared"]
    an_unfinished_run(world, "mailcaster", **{MAILCASTER: "shared"})
    said = tick(world, global_queue_sensor).skip_message or ""
    assert "nothing is sent: the hub is being moved" in said
    assert "strange: mailcasters: installations names 'alpha', which this database does not know" in said


def test_what_was_released_and_delivered_without_dagster_becomes_partitions(world: World) -> None:
    world.write_audience("members", range(1, 11))
    world.write_audience("friends", [])
    world.run("import_audiences")
    with world.installation() as opened:
        found = release_campaign(opened, world.folder / "campaigns" / "hello", now=utc_now())
        resolve_release(opened, found.release_id, now=utc_now())
        assemble_release(opened, found.release_id, now=utc_now())
        queue_release(opened, found.release_id, now=utc_now())

    tick(world, partition_key_sensor)

    assert world.instance.get_dynamic_partitions("mail_jobs") == [str(found.release_id)]
    assert world.instance.get_dynamic_partitions("child_jobs") == [str(found.release_id)]


def test_a_tick_without_settings_says_what_is_missing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.settings_file.unlink()

    with pytest.raises(BadSettings, match="there is no settings file"):
        tick(world, assemble_sensor)
    monkeypatch.setenv("MAIL_ORCHESTRATION_SETTINGS", str(world.settings_file))
    assert installation_time_zone() == "UTC"


def test_the_night_is_that_of_the_installation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write_settings(time_zone="Pacific/Auckland")
    monkeypatch.setenv("MAIL_ORCHESTRATION_SETTINGS", str(world.settings_file))

    assert installation_time_zone() == "Pacific/Auckland"


def test_ticks_share_one_installation(world: World) -> None:
    first = world.mail.shared()
    assert world.mail.shared() is first
    world.mail.close()
    assert isinstance(world.mail, MailSystem)
    assert world.mail.shared() is not first

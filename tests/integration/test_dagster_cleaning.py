"""Clean delivery queue: dead runs are said to be dead, old keys go, and living ones stay."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from typing import Any, Self

import dagster as dg
import pytest
from sqlalchemy import text

from assets.mail_system import presence_of
from jobs import old_keys
from jobs.dead_runs import GONE_AFTER, fail_abandoned_runs, fail_dead_runs
from jobs.old_keys import delete_old_keys
from jobs.old_runs import delete_old_runs
from jobs.tags import MAILCASTER, PROCESS
from mail_orchestration.dispatch.presence import is_present
from mail_orchestration.dispatch.shifts import start_shift
from mail_orchestration.kernel import clock
from mail_orchestration.kernel.clock import utc_now
from mail_orchestration.kernel.database_clock import database_now
from schedules.definitions import defs
from tests.integration.dagster_fixtures import World, dagster_instance, metadata_of, world

__all__ = ["dagster_instance", "world"]

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


def a_started_run(instance: dg.DagsterInstance, mailcaster: str) -> dg.DagsterRun:
    """A run whose process nobody looks at."""
    return instance.create_run_for_job(
        defs.resolve_job_def("mailcaster"),
        status=dg.DagsterRunStatus.STARTED,
        tags={MAILCASTER: mailcaster},
        run_config={"ops": {"work_a_shift": {"config": {"mailcaster": mailcaster}}}},
    )


def state_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    """The run's status now."""
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


@pytest.mark.rule("6.5")
def test_only_the_runs_of_silent_mailcasters_are_failed() -> None:
    later = utc_now() + 2 * GONE_AFTER
    with dg.DagsterInstance.ephemeral() as instance:
        silent, alive = a_started_run(instance, "silent"), a_started_run(instance, "alive")
        signs = {"silent": utc_now(), "alive": later - timedelta(seconds=10)}

        assert fail_dead_runs(instance, signs, job_name="mailcaster", now=later) == [silent.run_id]
        assert state_of(instance, silent) is dg.DagsterRunStatus.FAILURE
        assert state_of(instance, alive) is dg.DagsterRunStatus.STARTED
        assert fail_dead_runs(instance, signs, job_name="mailcaster", now=later) == []


def an_assembly(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """A run of `assemble` whose process nobody looks at, with what it said when it began."""
    run = instance.create_run_for_job(
        defs.resolve_job_def("assemble"),
        status=dg.DagsterRunStatus.STARTED,
        tags={PROCESS: "assemble", "dagster/partition": "7"},
    )
    instance.report_engine_event("it began", run)
    return run


@pytest.mark.rule("6.5")
def test_an_assembly_whose_machine_died_gives_its_place_free(world: World) -> None:
    now, later = utc_now(), utc_now() + 2 * GONE_AFTER
    with world.installation() as opened, opened.database.begin() as connection:
        at_work, gone = an_assembly(world.instance), an_assembly(world.instance)

        def look(moment: datetime) -> list[str]:
            return fail_abandoned_runs(
                world.instance,
                lambda run_id: is_present(connection, presence_of(run_id)),
                but_of="mailcaster",
                now=moment,
            )

        with world.mail.opened("assembly", at_work.run_id):
            assert look(now) == [], "they said something just now"
            assert look(later) == [gone.run_id]
            assert state_of(world.instance, gone) is dg.DagsterRunStatus.FAILURE
            assert state_of(world.instance, at_work) is dg.DagsterRunStatus.STARTED
        assert look(later) == [at_work.run_id], "its process went without a word"


def test_a_run_that_began_a_moment_ago_is_given_time() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run = a_started_run(instance, "fresh")
        long_ago = {"fresh": utc_now() - timedelta(days=1)}

        assert fail_dead_runs(instance, long_ago, job_name="mailcaster", now=utc_now()) == []
        assert state_of(instance, run) is dg.DagsterRunStatus.STARTED


def test_the_oldest_keys_go_and_typed_ones_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_keys, "KEPT", dict.fromkeys(old_keys.KEPT, 2))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("child_jobs", ["9", "10", "typed", "11"])
        instance.add_dynamic_partitions("mail_jobs", ["7"])

        assert delete_old_keys(instance, lambda mail_jobs: set()) == 2
        assert set(instance.get_dynamic_partitions("child_jobs")) == {"10", "11"}
        assert instance.get_dynamic_partitions("mail_jobs") == ["7"]


@pytest.mark.rule("6.5")
def test_keys_of_mail_jobs_of_long_ago_go_and_later_ones_stay() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("child_jobs", ["9", "10", "11"])
        instance.add_dynamic_partitions("mail_jobs", ["8", "12"])

        assert delete_old_keys(instance, {8, 9, 11}.intersection) == 3
        assert set(instance.get_dynamic_partitions("child_jobs")) == {"10"}
        assert instance.get_dynamic_partitions("mail_jobs") == ["12"]


@pytest.mark.rule("6.5")
def test_runs_of_long_ago_go_with_their_events() -> None:
    @dg.asset
    def shown() -> None: ...

    @dg.op
    def work() -> None: ...

    @dg.job
    def any_job() -> None:
        work()

    with dg.DagsterInstance.ephemeral() as instance:
        asset_run, old = (
            dg.materialize([shown], instance=instance),
            any_job.execute_in_process(instance=instance),
        )
        running = instance.create_run_for_job(any_job, status=dg.DagsterRunStatus.STARTED)

        assert delete_old_runs(instance, utc_now() - timedelta(hours=1)) == 0
        assert delete_old_runs(instance, utc_now() + timedelta(hours=1)) == 1
        assert instance.get_run_by_id(old.run_id) is None
        assert instance.all_logs(old.run_id) == []
        assert instance.get_run_by_id(asset_run.run_id), "the asset's page shows what it did"
        assert instance.get_run_by_id(running.run_id)


@pytest.mark.rule("6.5")
def test_the_job_drops_what_is_old_and_says_what_it_kept(world: World) -> None:
    with world.installation() as opened, opened.database.begin() as connection:
        for day in ("2020-01-01", "2020-01-02"):
            connection.execute(text("SELECT ensure_day_partitions(CAST(:day AS date))"), {"day": day})
    key = world.release()
    with world.installation() as opened, opened.database.begin() as connection:
        connection.execute(
            text("UPDATE release SET released_on = '2020-01-02' WHERE release_id = :id"), {"id": int(key)}
        )
    result = world.run("clean_delivery_queue")
    [told] = [
        event.step_output_data.metadata
        for event in result.filter_events(lambda event: event.is_successful_output)
        if event.step_output_data
    ]
    assert "bypass | 2020-01-01" in str(told["dropped"].value)
    assert "bypass | 2020-01-02" not in str(told["dropped"].value)
    assert "2020-01-02 | 1 | mail jobs that have not ended" in str(told["kept"].value)
    assert int(str(told["dropped_octets"].value)) > 0
    assert told["old_runs"].value == 0


def begin_shift(world: World, ago: timedelta = timedelta(0)) -> None:
    """A shift of `large` that is not over, as far as the database knows."""
    with world.installation() as opened, opened.database.begin() as connection:
        start_shift(
            connection,
            opened.installation_id,
            "large",
            host="here",
            process_id=1,
            now=database_now(connection) - ago,
        )


@pytest.mark.rule("6.5")
def test_the_job_cleans_and_tells_what_it_did(world: World) -> None:
    begin_shift(world, ago=2 * GONE_AFTER)
    result = world.run("clean_delivery_queue")

    [told] = [
        event.step_output_data.metadata
        for event in result.filter_events(lambda event: event.is_successful_output)
        if event.step_output_data
    ]
    assert told["interrupted"].value == "No dedup was cut off."
    assert told["dead_runs"].value == "No run is dead."
    assert told["old_partition_keys"].value == 0


@pytest.mark.rule("5.2")
@pytest.mark.rule("6.5")
def test_a_host_whose_clock_is_hours_ahead_takes_no_living_run_for_dead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_started_run(world.instance, "large")
    begin_shift(world)

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(hours=3)

    monkeypatch.setattr(clock, "datetime", Ahead)
    world.run("clean_delivery_queue")
    assert state_of(world.instance, run) is dg.DagsterRunStatus.STARTED


@pytest.mark.rule("3.4")
def test_a_campaign_is_paused_and_deleted_from_the_launchpad(world: World) -> None:
    key = world.release()

    def changed(action: str) -> dict[str, Any]:
        config = {"change": {"config": {"campaign": "hello", "action": action}}}
        result = world.run("change_campaign", config=config)
        [told] = [
            event.step_output_data.metadata
            for event in result.filter_events(lambda event: event.is_successful_output)
            if event.step_output_data
        ]
        return {name: value.value for name, value in told.items()}

    assert changed("PAUSE")["state"] == "paused"
    assert changed("RESUME")["state"] == "live"
    deleted = changed("DELETE")
    assert deleted["state"] == "deleted"
    assert key in str(deleted["stopped"])
    stopped = metadata_of(world.run("assemble", partition_key=key), "assembled_messages")
    assert (stopped["state"], stopped["this_run"]) == (
        "STOPPED",
        "nothing: the mail job is STOPPED (the campaign was deleted while it waited)",
    )

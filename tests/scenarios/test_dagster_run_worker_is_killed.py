"""A run's process is killed with its mailcaster in it: the clean-up frees its place, the sensor has the work recovered.

2,000 recipients in one child. What recovers it starts with the first look of the sensor after the hang time, and sends
only what has no result.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from sqlalchemy import text

from jobs import dead_runs
from jobs.tags import MAILCASTER
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.feedback.books import books
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.states import MailJobState
from schedules import runs
from schedules.definitions import defs
from schedules.global_queue_sensor import global_queue_sensor
from tests.integration.dagster_fixtures import World, world
from tests.scenarios.dagster_daemon import REPOSITORY
from tests.scenarios.installations import wait_for_results
from tests.scenarios.relays.postfix_sink import Sink, storing_sink

__all__ = ["world"]

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

CONTACTS = 2000
CONNECTIONS = 20
PACE = 500
"""Messages per second: the run has more than three seconds of work left when it is killed, however fast the machine."""
HANG_AFTER_S = 6.0

_RUN_WORKER = """
import sys
from pathlib import Path
import dagster as dg
from assets.mail_system import MailSystem
from jobs.tags import MAILCASTER
from schedules.definitions import defs
with dg.DagsterInstance.get() as instance:
    defs.resolve_job_def("mailcaster").execute_in_process(
        instance=instance,
        resources={"mail": MailSystem(Path(sys.argv[1]))},
        run_config={"ops": {"work_a_shift": {"config": {"mailcaster": "large"}}}},
        tags={MAILCASTER: "large"},
    )
"""


@pytest.fixture
def dagster_instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's books in a folder, which the run's process shares with us."""
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def sink() -> Iterator[Sink]:
    with storing_sink() as started:
        yield started


def wanted(world: World) -> list[dg.RunRequest]:
    """What the mailcaster sensor asks for when it looks now."""
    with (
        dg.build_sensor_context(
            instance=world.instance, definitions=defs, resources={"mail": world.mail}
        ) as context,
        partition_loading_context(dynamic_partitions_store=world.instance),
    ):
        return list(global_queue_sensor.evaluate_tick(context).run_requests or [])


def status_of(world: World, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = world.instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def seconds_until_it_hangs(installation: Installation) -> float:
    """By the database's clock; below 0 once it does."""
    with installation.database.begin() as connection:
        silent: timedelta = connection.execute(
            text("SELECT clock_timestamp() - heartbeat_at FROM mail_job WHERE state = 'RUNNING'")
        ).scalar_one()
    return HANG_AFTER_S - silent.total_seconds()


@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
@pytest.mark.rule("6.5")
def test_its_place_is_freed_and_its_child_recovered(
    world: World, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five minutes and one are for two hours of hang time: here it is seconds.
    monkeypatch.setattr(dead_runs, "GONE_AFTER", timedelta(seconds=1))
    monkeypatch.setattr(runs, "PAUSE_AFTER_FAILURE_S", 0)
    world.write_settings(
        relays=[
            {
                "name": "sink",
                "host": "127.0.0.1",
                "port": sink.port,
                "tls": "none",
                "connections": CONNECTIONS,
                "limits": {"per_second": PACE},
            }
        ],
        dispatcher={"heartbeat_seconds": 0.5, "hang_after_seconds": HANG_AFTER_S},
        mailcasters=[
            {
                "name": "large",
                "min_job_size": CONTACTS - 1,
                "max_job_size": CONTACTS,
                "connections": CONNECTIONS,
            }
        ],
    )
    world.write_audience("members", range(1, CONTACTS + 1))
    world.write_audience("friends", [])
    release_id = int(world.queued())
    installation = world.mail.shared()

    worker = subprocess.Popen(
        [sys.executable, "-c", _RUN_WORKER, str(world.settings_file)], cwd=REPOSITORY, env=dict(os.environ)
    )
    wait_for_results(installation, CONTACTS // 10)
    worker.kill()
    worker.wait()
    [run] = world.instance.get_runs(dg.RunsFilter(tags={MAILCASTER: "large"}))
    assert status_of(world, run) is dg.DagsterRunStatus.STARTED, "Dagster does not know yet"

    time.sleep(1.5)
    world.run("clean_delivery_queue")
    assert status_of(world, run) is dg.DagsterRunStatus.FAILURE
    asked_for = wanted(world)
    if seconds_until_it_hangs(installation) > 0:
        assert asked_for == [], "it may live: nobody takes it yet"
    time.sleep(max(0.0, seconds_until_it_hangs(installation)))
    [request] = wanted(world)
    assert request.tags[MAILCASTER] == "large"

    with installation.database.begin() as connection:
        before = int(connection.execute(text("SELECT count(*) FROM result")).scalar_one())
    world.run("mailcaster", config=request.run_config["ops"], tags=request.tags)

    with installation.database.begin() as connection:
        old, new = children(connection, release_id)
        tally = books(connection, release_id)
        resent = connection.execute(
            text("SELECT count(*) FROM result WHERE mail_job_id = :id"), {"id": new.mail_job_id}
        ).scalar_one()
        assert mail_job(connection, release_id).state is MailJobState.P_FINISHED
    assert (old.state, new.state, new.recovers_id) == (
        MailJobState.RECOVERED,
        MailJobState.FINISHED,
        old.mail_job_id,
    )
    assert (tally.balances, tally.accepted) == (True, CONTACTS)
    assert 0 < before < CONTACTS
    assert resent == CONTACTS - before
    got = sink.tally()
    assert set(got) == {f"person{number}@example.net" for number in range(1, CONTACTS + 1)}
    assert sum(got.values()) - CONTACTS <= CONNECTIONS

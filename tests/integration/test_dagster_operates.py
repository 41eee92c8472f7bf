"""Mail jobs are stopped and restarted from Dagster's launchpad, and the sensor finds what was restarted."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from mail_orchestration.broadcast import assemble_release, queue_release, resolve_release
from mail_orchestration.kernel.clock import utc_now
from schedules.global_queue_sensor import global_queue_sensor
from tests.integration.dagster_fixtures import World, dagster_instance, failure_of, world

__all__ = ["dagster_instance", "world"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.rule("5.6"),
    pytest.mark.rule("11.1"),
]


def operated(world: World, verb: str, **config: object) -> dict[str, Any]:
    """Run the job with this configuration; what it tells."""
    result = world.run(f"{verb}_mail_jobs", config={verb: {"config": config}})
    [told] = [
        event.step_output_data.metadata
        for event in result.filter_events(lambda event: event.is_successful_output)
        if event.step_output_data
    ]
    return {name: value.value for name, value in told.items()}


def wakes(world: World) -> int:
    """How many mailcasters the sensor would start now."""
    with dg.build_sensor_context(instance=world.instance, resources={"mail": world.mail}) as context:
        found = global_queue_sensor(context)
    assert isinstance(found, dg.SensorResult)
    return len(found.run_requests or [])


def test_a_release_is_stopped_while_it_is_assembled_and_restarted(world: World) -> None:
    key = world.release()
    assert operated(world, "stop", everything=True)["changed"] == 0
    with world.installation() as inst:
        resolve_release(inst, int(key), now=utc_now())
        assemble_release(inst, int(key), now=utc_now())
        assert queue_release(inst, int(key), now=utc_now()) == "STOPPED_Q"
    assert wakes(world) == 0
    told = operated(world, "restart", mail_job=int(key))
    assert told["changed"] == 1
    assert f"| {key} |" in told["mail_jobs"]
    assert r"| STOPPED\_Q | P\_QUEUED |" in told["mail_jobs"]
    assert wakes(world) > 0
    assert operated(world, "stop", campaign="hello")["changed"] == 1
    assert wakes(world) == 0


def test_a_scope_that_is_none_says_what_is_missing(world: World) -> None:
    result = world.run("stop_mail_jobs", config={"stop": {"config": {}}}, must_succeed=False)
    assert not result.success
    assert "name one of these: a mail job, a campaign, or everything" in failure_of(result)

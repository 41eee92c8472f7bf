"""Dagster's single mailer: the sensor asks for one run, which sends what is due and says how many."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from jobs.tags import SINGLE_MAILER
from mail_orchestration import holding
from mail_orchestration.single_mailer import SingleMail, submit
from schedules.definitions import defs
from schedules.global_queue_sensor import global_queue_sensor
from tests.integration.dagster_fixtures import StoringRelay, World, failure_of, relay, world

__all__ = ["relay", "world"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.rule("7.2"),
    pytest.mark.rule("11.1"),
]

AT_ONCE = {"work_a_single_shift": {"config": {"linger_seconds": 0}}}


@pytest.fixture
def dagster_instance() -> Iterator[dg.DagsterInstance]:
    """A sensor's context wants an instance that outlives the process."""
    with dg.instance_for_test() as instance:
        yield instance


def asked(world: World) -> list[str]:
    """What a tick asks runs for, or what it says instead."""
    with dg.build_sensor_context(
        instance=world.instance, definitions=defs, resources={"mail": world.mail}
    ) as context:
        told = global_queue_sensor.evaluate_tick(context)
    return [str(request.job_name) for request in told.run_requests or []] or [told.skip_message or ""]


def submit_to(world: World, *names: str) -> None:
    mails = [
        SingleMail(campaign="hello", to=f"{name}@example.net", attributes={"first_name": name})
        for name in names
    ]
    assert all(answer.submission.is_taken for answer in submit(world.mail.shared(), mails))


def test_one_run_sends_what_is_due_and_names_nobody(world: World, relay: StoringRelay) -> None:
    assert "no work" in asked(world)[0]
    submit_to(world, "ann", "ben")
    assert asked(world) == ["single_mailer"], "mailcasters are left alone"

    result = world.run("single_mailer", config=AT_ONCE)

    assert relay.recipients == ["ann@example.net", "ben@example.net"]
    assert "no work" in asked(world)[0]
    [told] = [
        event.step_output_data.metadata
        for event in result.filter_events(lambda event: event.is_successful_output)
        if event.step_output_data
    ]
    values = {key: value.value for key, value in told.items()}
    assert {key: values[key] for key in ("mails", "accepted", "failed", "ended_because")} == {
        "mails": 2,
        "accepted": 2,
        "failed": 0,
        "ended_because": "no mails",
    }
    said = [
        event.message or "" for event in world.instance.all_logs(result.run_id) if hasattr(event, "message")
    ]
    assert not any("@example.net" in each for each in said)


def test_one_at_a_time_and_none_while_sending_is_held(world: World) -> None:
    submit_to(world, "ann")
    holding.hold(world.mail.shared(), "the relay is being moved")
    assert "the relay is being moved" in asked(world)[0]
    holding.resume(world.mail.shared())
    world.instance.create_run_for_job(
        defs.resolve_job_def("single_mailer"),
        status=dg.DagsterRunStatus.STARTED,
        tags={SINGLE_MAILER: "test"},
    )
    assert asked(world) == ["single mailer: at work"]


def test_a_run_that_reaches_no_relay_fails_and_is_not_repeated_at_once(world: World) -> None:
    world.write_settings(dispatcher={"relay_unreachable_after_seconds": 0.1})
    submit_to(world, "ann")

    result = world.run("single_mailer", config=AT_ONCE, must_succeed=False)

    assert not result.success
    assert "relay" in failure_of(result)
    world.instance.add_run_tags(result.run_id, {SINGLE_MAILER: "test"})  # as the sensor would have
    assert "failed less than 60 s ago" in asked(world)[0]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"linger_seconds": -1}, "linger_seconds must be 0 or more"),
        ({"time_budget_minutes": 0}, "time_budget_minutes must be more than 0"),
    ],
)
def test_wrong_configuration_is_told(world: World, config: dict[str, float], said: str) -> None:
    result = world.run(
        "single_mailer", config={"work_a_single_shift": {"config": config}}, must_succeed=False
    )
    assert said in failure_of(result)

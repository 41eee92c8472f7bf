"""How the processes are: switched on or off, their last run, and when they look next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mail_orchestration.processes.dagster_server import (
    LOCATION_NAME,
    REPOSITORY_NAME,
    DagsterRefused,
    DagsterServer,
    expect,
)
from mail_orchestration.processes.table import PROCESSES, Process, Trigger

_STATE = """\
{
    id status nextTick { timestamp }
    ticks(limit: 1, statuses: [SKIPPED, SUCCESS, FAILURE]) {
      status timestamp skipReason error { message causes { message } }
    }
  }"""

_TRIGGERS = f"""\
query Triggers($repository: RepositorySelector!) {{
  repositoryOrError(repositorySelector: $repository) {{
    __typename
    ... on Repository {{
      sensors {{ name state: sensorState {_STATE} }}
      schedules {{ name state: scheduleState {_STATE} }}
    }}
    ... on RepositoryNotFoundError {{ message }}
    ... on PythonError {{ message }}
  }}
}}"""

_LAST_RUNS = """\
query LastRuns {
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } }
  %s
}
fragment Last on RunsOrError {
  __typename
  ... on Runs { results { runId jobName status creationTime startTime endTime } }
  ... on PythonError { message }
  ... on InvalidPipelineRunsFilterError { message }
}""" % "\n  ".join(  # noqa: UP031 - braces are GraphQL's own
    f'{job}: runsOrError(filter: {{ pipelineName: "{job}" }}, limit: 1) {{ ...Last }}'
    for each in PROCESSES
    for job in each.jobs
)

REPOSITORY = {"repositoryName": REPOSITORY_NAME, "repositoryLocationName": LOCATION_NAME}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as Dagster knows it."""

    run_id: str
    job: str
    status: str
    """Dagster's word: QUEUED, STARTED, SUCCESS, FAILURE, CANCELED …"""
    asked_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What came of a process's last look for work, whether it was due by itself or by a clock."""

    at: datetime
    status: str
    """Dagster's word: SUCCESS asked for runs, SKIPPED for none, FAILURE could not look."""
    reason: str
    """Why no run was asked for, or the error's first line; ''."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """One process at this moment."""

    process: Process
    is_on: bool
    last_run: Run | None
    last_look: Look | None
    next_look_at: datetime | None
    """None while it is switched off, and for a sensor when it is due."""

    @property
    def is_well(self) -> bool:
        """Its last run did not fail, and it could look for work, unless it is off."""
        cannot_look = self.is_on and self.last_look is not None and self.last_look.status == "FAILURE"
        return not cannot_look and (self.last_run is None or self.last_run.status != "FAILURE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All processes at this moment."""

    processes: tuple[ProcessStatus, ...]
    idle_daemons: tuple[str, ...]
    """Daemons of Dagster that are needed and give no sign of life: without them nothing begins by itself."""


def overview(server: DagsterServer) -> Overview:
    """Ask Dagster how the processes are. Raises DagsterUnavailable and DagsterRefused."""
    states = trigger_states(server)
    asked = server.ask(_LAST_RUNS)
    daemons = asked["instance"]["daemonHealth"]["allDaemonStatuses"]
    return Overview(
        processes=tuple(_status(each, state_of(states, each), asked) for each in PROCESSES),
        idle_daemons=tuple(
            sorted(each["daemonType"] for each in daemons if each["required"] and not each["healthy"])
        ),
    )


def trigger_states(server: DagsterServer) -> dict[tuple[Trigger, str], dict[str, Any]]:
    """The state of each sensor and schedule of our location."""
    answer = server.ask(_TRIGGERS, repository=REPOSITORY)
    repository = expect(answer["repositoryOrError"], "Repository")
    kinds = ((Trigger.SENSOR, repository["sensors"]), (Trigger.SCHEDULE, repository["schedules"]))
    return {(trigger, found["name"]): found["state"] for trigger, each in kinds for found in each}


def state_of(states: Mapping[tuple[Trigger, str], dict[str, Any]], process: Process) -> dict[str, Any]:
    """That of the process. Raises DagsterRefused when Dagster runs with other code than this."""
    try:
        return states[process.trigger, process.name]
    except KeyError:
        raise DagsterRefused(
            f"Dagster knows no {process.trigger} {process.name}: it runs with other code than this; reload its "
            f"location {LOCATION_NAME}"
        ) from None


def _status(process: Process, state: Mapping[str, Any], asked: Mapping[str, Any]) -> ProcessStatus:
    runs = [_run(found) for job in process.jobs for found in expect(asked[job], "Runs")["results"]]
    tick = next(iter(state["ticks"]), None)
    upcoming = state["nextTick"]
    is_on = state["status"] == "RUNNING"
    return ProcessStatus(
        process=process,
        is_on=is_on,
        last_run=max(runs, key=lambda run: run.asked_at, default=None),
        last_look=None if tick is None else _look(tick),
        next_look_at=_moment(upcoming["timestamp"]) if is_on and upcoming else None,
    )


def _run(found: Mapping[str, Any]) -> Run:
    asked_at = _moment(found["creationTime"])
    assert asked_at is not None
    return Run(
        run_id=found["runId"],
        job=found["jobName"],
        status=found["status"],
        asked_at=asked_at,
        started_at=_moment(found["startTime"]),
        ended_at=_moment(found["endTime"]),
    )


def _look(tick: Mapping[str, Any]) -> Look:
    at = _moment(tick["timestamp"])
    assert at is not None
    error = tick["error"]
    reason = reason_of(error) if error else tick["skipReason"] or ""
    return Look(at=at, status=tick["status"], reason=reason)


def reason_of(error: Mapping[str, Any]) -> str:
    """The first line of what went wrong at the bottom: Dagster wraps it, and messages hold tracebacks as well."""
    innermost = error["causes"][-1] if error["causes"] else error
    return str(innermost["message"]).strip().partition("\n")[0]


def _moment(timestamp: float | None) -> datetime | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)

"""Switching a process off and on, and running it now. Who did it stands on the runs, as a tag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.processes.dagster_server import DagsterRefused, DagsterServer, expect
from mail_orchestration.processes.table import Process, Trigger
from mail_orchestration.processes.watching import REPOSITORY, reason_of, state_of, trigger_states

ASKED_BY = "mail/asked_by"
"""The tag of runs that somebody asked for: user and host."""
_PARTITION = "dagster/partition"
_MAIL_JOBS = "mail_jobs"
"""The partitions of those processes that work on one mail job at a time."""

_START_SENSOR = """\
mutation Start($selector: SensorSelector!) {
  done: startSensor(sensorSelector: $selector) {
    __typename ... on PythonError { message } ... on SensorNotFoundError { message }
  }
}"""
_STOP_SENSOR = """\
mutation Stop($id: String!) { done: stopSensor(id: $id) { __typename ... on PythonError { message } } }"""
_START_SCHEDULE = """\
mutation Start($selector: ScheduleSelector!) {
  done: startSchedule(scheduleSelector: $selector) {
    __typename ... on PythonError { message } ... on ScheduleNotFoundError { message }
  }
}"""
_STOP_SCHEDULE = """\
mutation Stop($id: String!) { done: stopRunningSchedule(id: $id) { __typename ... on PythonError { message } } }"""

_LOOK_NOW = """\
mutation Look($selector: SensorSelector!) {
  done: sensorDryRun(selectorData: $selector, cursor: null) {
    __typename
    ... on DryRunInstigationTick {
      evaluationResult {
        skipReason error { message causes { message } } runRequests { jobName runConfigYaml tags { key value } }
      }
    }
    ... on PythonError { message }
    ... on SensorNotFoundError { message }
  }
}"""
_ADD_PARTITION = """\
mutation Add($repository: RepositorySelector!, $partitions: String!, $key: String!) {
  done: addDynamicPartition(repositorySelector: $repository, partitionsDefName: $partitions, partitionKey: $key) {
    __typename ... on PythonError { message }
  }
}"""
_LAUNCH = """\
mutation Launch($parameters: ExecutionParams!) {
  done: launchRun(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on PipelineNotFoundError { message }
    ... on RunConflict { message }
    ... on InvalidSubsetError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run that Dagster took into its queue."""

    run_id: str
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of the wish to run a process now."""

    runs: tuple[Started, ...]
    reason: str
    """Why there is no run; ''."""


def switch(server: DagsterServer, process: Process, *, on: bool) -> bool:
    """Switch a process on or off; False when it was so already. Runs that are under way go on.

    Raises DagsterUnavailable and DagsterRefused.
    """
    state = state_of(trigger_states(server), process)
    if (state["status"] == "RUNNING") == on:
        return False
    is_sensor = process.trigger is Trigger.SENSOR
    if on:
        answer = server.ask(_START_SENSOR if is_sensor else _START_SCHEDULE, selector=_selector(process))
        expect(answer["done"], "Sensor", "ScheduleStateResult")
    else:
        answer = server.ask(_STOP_SENSOR if is_sensor else _STOP_SCHEDULE, id=state["id"])
        expect(answer["done"], "StopSensorMutationResult", "ScheduleStateResult")
    return True


def run_now(
    server: DagsterServer,
    process: Process,
    *,
    by: str,
    mail_job: int | None = None,
    mailcaster: str | None = None,
) -> Asked:
    """Have Dagster run a process, whether it is switched on or off.

    What goes by the clock runs once. The others look for work as they do by themselves, and a run is asked for each
    piece that they find; for one `mail_job`, or one shift of a `mailcaster`, without looking. Raises BadInput when the
    process takes no such choice, DagsterUnavailable and DagsterRefused.
    """
    if mail_job is not None and not process.is_per_mail_job:
        raise BadInput(f"{process.name} is not run for one mail job")
    if mailcaster is not None and "mailcaster" not in process.jobs:
        raise BadInput(f"{process.name} is not run by a mailcaster")
    if mail_job is not None:
        key = str(mail_job)
        added = server.ask(_ADD_PARTITION, repository=REPOSITORY, partitions=_MAIL_JOBS, key=key)
        expect(added["done"], "AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError")
        wanted = [_Wanted(process.jobs[0], {_PARTITION: key})]
    elif mailcaster is not None:
        wanted = [
            _Wanted("mailcaster", config={"ops": {"work_a_shift": {"config": {"mailcaster": mailcaster}}}})
        ]
    elif process.trigger is Trigger.SCHEDULE:
        wanted = [_Wanted(job) for job in process.jobs]
    else:
        answer = server.ask(_LOOK_NOW, selector=_selector(process))
        found = expect(answer["done"], "DryRunInstigationTick")["evaluationResult"]
        if found["error"] is not None:
            raise DagsterRefused(f"{process.name} cannot look for work: {reason_of(found['error'])}")
        wanted = [_wanted(request, process) for request in found["runRequests"] or ()]
        if not wanted:
            return Asked(runs=(), reason=found["skipReason"] or "There is nothing to do.")
    return Asked(runs=tuple(_start(server, each, by) for each in wanted), reason="")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A run that is to be asked for."""

    job: str
    tags: Mapping[str, str] = field(default_factory=dict)
    config: object = field(default_factory=dict)
    """A mapping, or YAML."""


def _wanted(request: Mapping[str, Any], process: Process) -> _Wanted:
    """What a sensor asked for."""
    tags = {tag["key"]: tag["value"] for tag in request["tags"]}
    return _Wanted(request["jobName"] or process.jobs[0], tags, request["runConfigYaml"])


def _start(server: DagsterServer, wanted: _Wanted, by: str) -> Started:
    tags = {**wanted.tags, ASKED_BY: by}
    parameters = {
        "selector": {**REPOSITORY, "jobName": wanted.job},
        "runConfigData": wanted.config,
        "mode": "default",
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
    }
    launched = server.ask(_LAUNCH, parameters=parameters)
    run = expect(launched["done"], "LaunchRunSuccess")["run"]
    return Started(run_id=run["runId"], job=wanted.job)


def _selector(process: Process) -> dict[str, str]:
    return {**REPOSITORY, f"{process.trigger.value}Name": process.name}

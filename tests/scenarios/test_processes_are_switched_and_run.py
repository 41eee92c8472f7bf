"""The processes through Dagster's real webserver: listed, switched off and on, and run now (spec 6.1)."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.processes import (
    PROCESSES,
    DagsterRefused,
    DagsterServer,
    overview,
    process,
    run_now,
    switch,
)
from mail_orchestration.processes.operating import ASKED_BY
from tests.integration.dagster_fixtures import World, dagster_instance, world
from tests.scenarios.dagster_daemon import webserver_on

__all__ = ["dagster_instance", "world"]

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

BY = "anna at office"


@pytest.mark.rule("6.1")
def test_processes_are_listed_switched_and_run_through_dagster(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    key = world.release()
    with webserver_on(world) as (url, instance):
        server = DagsterServer(url)

        every_one_is_on_and_none_has_run(server)
        switched_off_they_are_not_due(server)
        what_is_off_runs_all_the_same(server, instance, key)
        one_mail_job_and_one_mailcaster_can_be_chosen(server, instance, key)
        the_command_line_says_the_same(world, url, capsys)
        what_cannot_look_says_why(world, server)


def every_one_is_on_and_none_has_run(server: DagsterServer) -> None:
    found = overview(server)

    assert [each.process for each in found.processes] == list(PROCESSES)
    assert all(each.is_on and each.last_run is None and each.is_well for each in found.processes)
    assert "SENSOR" in found.idle_daemons, "there is no daemon here, and it is said"


def switched_off_they_are_not_due(server: DagsterServer) -> None:
    for name in ("assemble", "clean_delivery_queue"):
        assert switch(server, process(name), on=False)
        assert not switch(server, process(name), on=False), "it is off already"

    states = {each.process.name: each for each in overview(server).processes}
    assert [name for name, each in states.items() if not each.is_on] == ["assemble", "clean_delivery_queue"]
    assert states["clean_delivery_queue"].next_look_at is None
    assert states["close_of_the_day"].next_look_at is not None


def what_is_off_runs_all_the_same(server: DagsterServer, instance: dg.DagsterInstance, key: str) -> None:
    asked = run_now(server, process("assemble"), by=BY)

    [started] = asked.runs
    queued = instance.get_run_by_id(started.run_id)
    assert queued is not None
    assert queued.job_name == "assemble"
    assert (queued.tags["dagster/partition"], queued.tags[ASKED_BY]) == (key, BY)
    again = run_now(server, process("assemble"), by=BY)
    assert (again.runs, again.reason) == ((), f"mail job {key}: at work"), (
        "the sensor decides what there is to do"
    )

    [cleaning] = run_now(server, process("clean_delivery_queue"), by=BY).runs
    last = next(
        each for each in overview(server).processes if each.process.name == "clean_delivery_queue"
    ).last_run
    assert last is not None
    assert (last.run_id, last.status) == (cleaning.run_id, "QUEUED")

    assert run_now(server, process("partition_keys"), by=BY).runs == (), "it only looks"
    assert switch(server, process("assemble"), on=True)


def one_mail_job_and_one_mailcaster_can_be_chosen(
    server: DagsterServer, instance: dg.DagsterInstance, key: str
) -> None:
    [report] = run_now(server, process("report"), by=BY, mail_job=int(key)).runs
    [shift] = run_now(server, process("global_delivery_queue"), by=BY, mailcaster="small").runs

    chosen, working = instance.get_run_by_id(report.run_id), instance.get_run_by_id(shift.run_id)
    assert chosen is not None
    assert working is not None
    assert chosen.tags["dagster/partition"] == key
    assert working.run_config["ops"]["work_a_shift"]["config"] == {"mailcaster": "small"}
    with pytest.raises(BadInput, match="report is not run by a mailcaster"):
        run_now(server, process("report"), by=BY, mailcaster="small")
    with pytest.raises(BadInput, match="close_of_the_day is not run for one mail job"):
        run_now(server, process("close_of_the_day"), by=BY, mail_job=int(key))


def the_command_line_says_the_same(world: World, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    world.write_settings(dagster={"url": url})
    given = ["--json", "--settings", str(world.settings_file)]

    assert run(["processes", *given]) == ExitCode.NOT_WELL, "without a daemon nothing begins by itself"
    document = json.loads(capsys.readouterr().out)
    assert (document["installation"], document["webserver"]) == ("test", url)
    assert [each["name"] for each in document["processes"]] == [each.name for each in PROCESSES]
    assert run(["switch", "report", "off", *given]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"process": "report", "on": False, "changed": True}
    assert run(["run", "close_of_the_day", *given]) == ExitCode.OK
    assert [each["job"] for each in json.loads(capsys.readouterr().out)["runs"]] == ["close_of_the_day"]
    assert run(["run", "report", "--mail-job", "99", *given]) == ExitCode.BAD_INPUT
    assert "there is no release 99" in capsys.readouterr().err
    assert run(["run", "bounces", *given]) == ExitCode.BAD_INPUT
    assert "there is no process 'bounces' (there are: assemble, " in capsys.readouterr().err


def what_cannot_look_says_why(world: World, server: DagsterServer) -> None:
    world.settings_file.unlink()

    with pytest.raises(DagsterRefused, match=r"assemble cannot look for work: .*there is no settings file"):
        run_now(server, process("assemble"), by=BY)

"""The processes of the global queue, through Dagster: `processes`, `switch`, `run`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mail_orchestration.cli.app import LARGEST_NUMBER, command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped, table

if TYPE_CHECKING:
    from rich.console import Console

    from mail_orchestration.kernel.settings import Settings
    from mail_orchestration.processes import Overview, ProcessStatus

PANEL = "Processes"

ProcessName = Annotated[str, typer.Argument(metavar="NAME", help="As `processes` lists it.")]


@command("processes", PANEL)
def processes(face: Face) -> ExitCode | None:
    """What runs by itself: each process's description, whether it is on, its last run, and when it looks next.

    Exit code 1 when a process that is on cannot look for work, its last run failed, or Dagster's daemon is not there.
    """
    from mail_orchestration.processes import DagsterServer, overview

    settings = _settings(face)
    server = DagsterServer.of(settings)
    found = overview(server)
    document = {
        "installation": settings.installation,
        "webserver": server.url,
        "idle_daemons": found.idle_daemons,
        "processes": [_document(each) for each in found.processes],
    }
    face.answer(document, lambda console: _show(console, settings.installation, server.url, found))
    return (
        None
        if not found.idle_daemons and all(each.is_well for each in found.processes)
        else ExitCode.NOT_WELL
    )


@command("switch", PANEL)
def switch_(
    face: Face,
    name: ProcessName,
    to: Annotated[Literal["on", "off"], typer.Argument(metavar="on|off", help="What it is to be.")],
) -> ExitCode | None:
    """Switch a process on or off. Runs that are under way go on, and an off one can be run all the same."""
    from mail_orchestration.processes import DagsterServer, process, switch

    chosen = process(name)
    changed = switch(DagsterServer.of(_settings(face)), chosen, on=to == "on")
    sentence = f"{chosen.title} is {to}" + ("." if changed else " already.")
    face.answer(
        {"process": name, "on": to == "on", "changed": changed}, lambda console: console.print(sentence)
    )
    return None


@command("run", PANEL)
def run(
    face: Face,
    name: ProcessName,
    mail_job: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_NUMBER, help="Only this one; without it, all that wait.")
    ] = None,
    mailcaster: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One shift of this one; without it, of all that find work."),
    ] = None,
) -> ExitCode | None:
    """Run a process now, in Dagster, whether it is on or off.

    The answer is what was asked for, not how it ended: `processes` and Dagster's page show that.
    """
    from mail_orchestration.holding import operator
    from mail_orchestration.processes import DagsterServer, process, run_now

    chosen = process(name)
    settings = _settings(face)
    if mailcaster is not None:
        settings.mailcaster(mailcaster)
    if mail_job is not None:
        _require_mail_job(face, mail_job)
    server = DagsterServer.of(settings)
    asked = run_now(server, chosen, by=operator(), mail_job=mail_job, mailcaster=mailcaster)

    def show(console: Console) -> None:
        for each in asked.runs:
            console.print(f"{each.job}: {escaped(server.url)}/runs/{each.run_id}", soft_wrap=True)
        if not asked.runs:
            console.print(f"No run was asked for: {escaped(asked.reason)}")

    face.answer({"process": name, "runs": asked.runs, "reason": asked.reason}, show)
    return None


def _settings(face: Face) -> Settings:
    from mail_orchestration.kernel.settings import load_settings

    return load_settings(face.settings_path)


def _require_mail_job(face: Face, number: int) -> None:
    from mail_orchestration.dispatch.releases import read_release

    with face.open() as inst, inst.database.begin() as connection:
        read_release(connection, inst.installation_id, number)


def _document(status: ProcessStatus) -> dict[str, Any]:
    process = dataclasses.asdict(status.process)
    del process["is_per_mail_job"]
    return process | {
        "on": status.is_on,
        "last_run": status.last_run,
        "last_look": status.last_look,
        "next_look_at": status.next_look_at,
    }


def _show(console: Console, installation: str, url: str, found: Overview) -> None:
    from rich.text import Text

    console.print(f"[bold]{installation}[/] on Dagster at {escaped(url)}")
    rows = []
    for each in found.processes:
        run, look = each.last_run, each.last_look
        is_failed = run is not None and run.status == "FAILURE"
        rows.append(
            (
                each.process.name,
                Text("on", "green") if each.is_on else Text("off", "yellow"),
                each.process.scope.value,
                run and (run.started_at or run.asked_at),
                Text(run.status.lower() if run else "", "red" if is_failed else ""),
                each.next_look_at or ("due" if each.is_on else ""),
                look.reason if look and each.is_on else "",
            )
        )
    console.print(
        table("process", "is", "of", "last run", "status", "next look", "last look said", rows=rows)
    )
    for each in found.processes:
        console.print(f"[bold]{each.process.name}[/]  {escaped(each.process.description)}", soft_wrap=True)
    for daemon in found.idle_daemons:
        console.print(
            f"[yellow]warning[/] Dagster's daemon {daemon} gives no sign of life: nothing begins by itself"
        )

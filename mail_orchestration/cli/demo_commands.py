"""A whole installation on one machine: `dev` and `demo`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mail_orchestration.cli.app import command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face

if TYPE_CHECKING:
    from mail_orchestration.cli.demo_dagster import Dagster
    from mail_orchestration.cli.demo_site import Site

PANEL = "On one machine"
STATE_FOLDER = Path(".mail_orchestration")
FEWEST_CONTACTS = 200

Contacts = Annotated[int, typer.Option(min=FEWEST_CONTACTS, max=200_000, help="How many imagined contacts.")]


@command("demo", PANEL)
def demo(
    face: Face,
    contacts: Contacts = 5_000,
    within: Annotated[
        float, typer.Option(min=10, metavar="SECONDS", help="How long the mail job may take.")
    ] = 300.0,
) -> ExitCode | None:
    """Send mails to a local relay through Dagster, verify each of them, report, and end.

    Everything lies in .mail_orchestration/demo of the current folder, which is made anew. Exit code 0 when every
    accepted message was found at the relay exactly once.
    """
    from mail_orchestration.cli import demo_course, demo_report
    from mail_orchestration.cli.demo_dagster import start_code_server, start_dagster
    from mail_orchestration.cli.demo_site import open_site
    from mail_orchestration.cli.mailcaster_commands import interrupt_on_sigterm
    from mail_orchestration.cli.services import free_port

    began = time.monotonic()
    folder = (STATE_FOLDER / "demo").absolute()
    tell = demo_report.Teller(face)
    with interrupt_on_sigterm():
        tell.headline(
            f"mail_orchestration demo: {contacts:,} contacts, one newsletter, a relay on this machine"
        )
        with open_site(folder, command="demo", contacts=contacts, webserver_port=free_port()) as site:
            tell.line(f"PostgreSQL (embedded) and an SMTP relay on 127.0.0.1:{site.relay_port} are up", began)
            code_server = start_code_server(site)
            filled = demo_course.fill(site)
            tell.imports(site, filled)
            dagster = start_dagster(site, code_server)
            tell.line(f"Dagster's daemon works, its UI answers on {dagster.url} until the demo ends", began)
            released = time.monotonic()
            mail_job = demo_course.release(site)
            tell.headline(
                f"Released {site.campaign_folder.name}: mail job {mail_job}. Now Dagster's sensors carry it"
            )
            with face.progress("delivering") as progress:
                for moment in demo_course.watch(site, dagster, mail_job, within_seconds=within):
                    progress(moment.done, moment.total or None)
                    tell.moment(moment)
            seconds = time.monotonic() - released
            is_reported = demo_course.wait_for_report(site, mail_job)
            if is_reported:
                tell.line("Dagster has materialised mail_job_report", released)
            outcome = demo_report.gather(
                site,
                mail_job,
                seconds=seconds,
                filled=filled,
                is_reported=is_reported,
                held=demo_course.release_reminder(site),
            )
            tell.outcome(outcome)
        # Said only now: every process has ended.
        document = outcome.document() | {
            "seconds_in_all": round(time.monotonic() - began, 1),
            "folder": folder,
        }
        tell.farewell(outcome, folder, began)
    face.answer(document, lambda console: None)
    return None if outcome.is_well else ExitCode.NOT_WELL


@command("dev", PANEL)
def dev(
    face: Face,
    contacts: Contacts = 5_000,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of Dagster's UI; another one if it is taken.")
    ] = 3000,
    on_database_url: Annotated[
        bool,
        typer.Option(
            "--on-database-url",
            help="On the database of DATABASE_URL, not an embedded one: whatever waits in it goes to the demo's relay.",
        ),
    ] = False,
) -> ExitCode | None:
    """Bring up database, relay and Dagster with the demo's data, and leave the UI up until Ctrl-C.

    Everything lies in .mail_orchestration/dev of the current folder, which is made anew.
    """
    from mail_orchestration.cli import demo_course, demo_report
    from mail_orchestration.cli.demo_dagster import start_code_server, start_dagster
    from mail_orchestration.cli.demo_site import open_site
    from mail_orchestration.cli.mailcaster_commands import stop_on_signals
    from mail_orchestration.cli.services import free_port

    began = time.monotonic()
    folder = (STATE_FOLDER / "dev").absolute()
    tell = demo_report.Teller(face)

    def until_stopped(site: Site, dagster: Dagster, is_stopped: Callable[[float], bool]) -> None:
        tell.headline(f"Dagster's UI is on {dagster.url}. Ctrl-C ends everything")
        tell.whereabouts(folder, command="dev")
        while not is_stopped(1.0):
            site.services.require_alive()

    with (
        stop_on_signals() as stop,
        open_site(
            folder,
            command="dev",
            contacts=contacts,
            webserver_port=free_port(port),
            on_database_url=on_database_url,
        ) as site,
    ):
        tell.line(f"PostgreSQL and an SMTP relay on 127.0.0.1:{site.relay_port} are up", began)
        code_server = start_code_server(site)
        filled = demo_course.fill(site)
        tell.imports(site, filled)
        dagster = start_dagster(site, code_server)
        mail_job = demo_course.release(site)
        tell.line(
            f"mail job {mail_job} of {site.campaign_folder.name} is released: watch it in the UI", began
        )
        document: dict[str, Any] = {"url": dagster.url, "mail_job_id": mail_job, "folder": folder}
        face.answer(document, lambda console: None)
        until_stopped(site, dagster, stop.event.wait)
        tell.line("ending: mailcasters finish what is in flight", began)
    tell.line("everything has ended", began)
    return None

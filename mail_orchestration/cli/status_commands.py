"""The installation at a glance: `status`."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mail_orchestration.cli.app import command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, database_name, escaped, shown, table
from mail_orchestration.cli.loose_mail_commands import counts_table
from mail_orchestration.cli.mail_job_commands import PANEL, show_mail_jobs
from mail_orchestration.kernel.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mail_orchestration.dispatch.holds import Hold
    from mail_orchestration.kernel.fleet_settings import MailcasterParameters
    from mail_orchestration.kernel.relay_settings import RelaySettings

RELAY_ANSWERS_WITHIN_SECONDS = 2.0


@command("status", PANEL)
def status(face: Face) -> ExitCode | None:
    """The installation at a glance: holds, database, relays, mailcasters, work that waits, audiences, warnings."""
    from mail_orchestration.audience.importing import audience_sizes
    from mail_orchestration.dispatch.loose_mail_lists import count_loose_mails
    from mail_orchestration.dispatch.mail_jobs import mail_jobs
    from mail_orchestration.dispatch.mailcaster_types import fleet_warnings, mailcaster_type
    from mail_orchestration.dispatch.shifts import shifts
    from mail_orchestration.frequency.showing import policy_shown
    from mail_orchestration.holding import why_closed, why_held
    from mail_orchestration.kernel.states import MailJobState

    with face.open() as inst:
        settings = inst.settings
        with inst.database.begin() as connection:
            last = {shift.mailcaster: shift for shift in shifts(connection, inst.installation_id)}
            live = [state for state in MailJobState if not state.is_ended]
            waiting = mail_jobs(connection, inst.installation_id, limit=20, states=live)
            loose_mails = count_loose_mails(connection, inst.installation_id)
            audiences = audience_sizes(connection, inst.installation_id)
            frequency = policy_shown(connection, inst)
        holds, closed = why_held(inst), why_closed(inst)
        database = database_name(inst)
        embedded = inst.database.is_embedded
    with ThreadPoolExecutor(max_workers=8) as pool:
        relays = list(pool.map(_relay_status, settings.relays))
    fleet = [each for each in settings.mailcasters if each.serves(settings.installation)]
    warnings = fleet_warnings(fleet, settings.dispatcher.small_audience_threshold)
    if not settings.relays:
        warnings.append("no relay is configured: nothing can be sent")
    warnings += [fault for relay in settings.relays if (fault := _secret_fault(relay))]
    if frequency.difference:
        warnings.append(frequency.difference)
    mailcasters = [
        _mailcaster_status(each, mailcaster_type(each).value, last.get(each.name))
        for each in settings.mailcasters
    ]
    document = {
        "installation": settings.installation,
        "database": database,
        "embedded": embedded,
        "holds": holds,
        "send_window": closed or "open",
        "relays": relays,
        "mailcasters": mailcasters,
        "mail_jobs": waiting,
        "loose_mails": loose_mails,
        "frequency": {
            "in_force": frequency.in_force,
            "held": frequency.waiting,
            "difference": frequency.difference,
        },
        "audiences": audiences,
        "warnings": warnings,
    }

    def show(console: Console) -> None:
        console.print(f"[bold]{settings.installation}[/] on {escaped(database)}")
        show_holds(console, holds)
        if closed:
            console.print(f"[bold yellow]nothing is sent[/] {escaped(closed)}", highlight=False)
        relay_keys = ("name", "host", "port", "tls", "weight", "reachable")
        console.print(
            table(
                "relay", *relay_keys[1:], rows=[[_cell(each, key) for key in relay_keys] for each in relays]
            )
        )
        keys = ("name", "type", "state", "since", "mail_jobs", "messages")
        heads = ("mailcaster", "type", "shift", "since", "mail jobs", "messages")
        console.print(table(*heads, rows=[[each[key] for key in keys] for each in mailcasters]))
        console.print(table("audience", "members", rows=[(each.name, each.members) for each in audiences]))
        if waiting:
            show_mail_jobs(console, waiting)
        else:
            console.print("No mail job waits or runs.")
        if loose_mails:
            console.print(counts_table("loose mails", loose_mails))
        if frequency.in_force is not None:
            console.print(
                f"frequency policy: {frequency.in_words}; {shown(frequency.waiting)} mails are held"
            )
        for warning in warnings:
            console.print(f"[yellow]warning[/] {escaped(warning)}")

    face.answer(document, show)
    return None


def show_holds(console: Console, holds: Sequence[Hold]) -> None:
    """Why nothing is sent, in red, and what lifts it; nothing when sending is not held."""
    from rich.markup import escape

    lifts = {"restored": "resume --after-restore", "notifications": "notifications on"}
    for each in holds:
        lifted_by = f"mail-orchestration {lifts.get(each.cause.value, 'resume')}"
        console.print(
            f"[bold red]nothing is sent[/] since {each.held_at:%Y-%m-%d %H:%M:%S}: {escape(each.reason)} "
            f"({escape(each.held_by)}); lifted by: {lifted_by}",
            highlight=False,
        )


def _secret_fault(relay: RelaySettings) -> str | None:
    try:
        relay.password()
    except BadSettings as error:
        return str(error)
    return None


def _cell(relay: dict[str, Any], key: str) -> object:
    match key:
        case "port":
            return str(relay["port"])
        case "reachable" if relay["reason"]:
            return f"no: {relay['reason']}"
        case _:
            return relay[key]


def _relay_status(relay: RelaySettings) -> dict[str, Any]:
    try:
        with socket.create_connection((relay.host, relay.port), timeout=RELAY_ANSWERS_WITHIN_SECONDS):
            reachable, reason = True, None
    except OSError as error:
        reachable, reason = False, error.strerror or str(error)
    return {
        "name": relay.name,
        "host": relay.host,
        "port": relay.port,
        "tls": relay.tls,
        "weight": relay.weight,
        "reachable": reachable,
        "reason": reason,
    }


def _mailcaster_status(parameters: MailcasterParameters, kind: str, shift: Any) -> dict[str, Any]:
    state = "none yet" if shift is None else "ended" if shift.ended_at else "at work"
    return {
        "name": parameters.name,
        "type": kind,
        "connections": parameters.connections,
        "state": state,
        "since": None if shift is None else shift.ended_at or shift.started_at,
        "heartbeat_at": None if shift is None else shift.heartbeat_at,
        "mail_job_id": None if shift is None else shift.mail_job_id,
        "mail_jobs": 0 if shift is None else shift.mail_jobs_done,
        "messages": 0 if shift is None else shift.messages_done,
    }

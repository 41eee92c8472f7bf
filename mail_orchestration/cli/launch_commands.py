"""Before a launch: `dry-run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mail_orchestration.cli.app import command
from mail_orchestration.cli.campaign_commands import PANEL, CampaignArgument, campaign_folder
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped, shown, table

if TYPE_CHECKING:
    from rich.console import Console

    from mail_orchestration.broadcast import DryRun

DOMAINS_SHOWN = 20


@command("dry-run", PANEL)
def dry_run_(face: Face, campaign: CampaignArgument) -> ExitCode | None:
    """Take a whole release through dedup and assembly, and send nothing. Exit code 1 when nobody would get it."""
    from mail_orchestration.broadcast import dry_run
    from mail_orchestration.kernel.clock import utc_now

    with face.open() as inst, face.progress("assembling") as progress:
        found = dry_run(inst, campaign_folder(inst.settings, campaign), now=utc_now(), progress=progress)
    document = {
        "mail_job_id": found.mail_job_id,
        "campaign": found.campaign,
        "audience_rows": found.books.audience_rows,
        "duplicates": found.books.duplicates,
        "recipients": found.books.recipients,
        "bypassed": found.books.bypassed,
        "messages": found.messages,
        "assembled": found.assembled,
        "domains": found.domains,
    }
    face.answer(document, lambda console: _show(console, found))
    return None if found.messages else ExitCode.NOT_WELL


def _show(console: Console, found: DryRun) -> None:
    console.print(f"[bold]dry run of {escaped(found.campaign)}[/]: nothing was sent")
    rows: list[tuple[str, int]] = [
        ("audience rows", found.books.audience_rows),
        ("duplicates", found.books.duplicates),
        ("recipients", found.books.recipients),
        *((f"bypassed: {reason}", count) for reason, count in found.books.bypassed.items()),
        ("messages that would be sent", found.messages),
    ]
    console.print(table("", "", rows=rows))
    if not found.messages:
        console.print("[yellow]Nobody would get it.[/]")
        return
    if found.assembled is not None:
        size = found.assembled.composed_bytes / max(1, found.assembled.messages)
        console.print(f"{shown(found.assembled.composed_bytes)} octets in all, {size:,.0f} a message")
    domains = list(found.domains.items())
    shares: list[tuple[str, int, str]] = [
        (domain, count, f"{count / found.messages:.1%}") for domain, count in domains[:DOMAINS_SHOWN]
    ]
    if rest := domains[DOMAINS_SHOWN:]:
        count = sum(number for _, number in rest)
        shares.append((f"{len(rest):,} others", count, f"{count / found.messages:.1%}"))
    console.print(table("domain", "messages", "share", rows=shares))
    console.print(
        f"What each would get is stored: mail-orchestration message {found.mail_job_id} ADDRESS shows it."
    )

"""Before a launch: `dry-run`, `forecast`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mail_orchestration.cli.app import command
from mail_orchestration.cli.campaign_commands import PANEL, CampaignArgument, campaign_folder
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, duration, escaped, shown, table
from mail_orchestration.cli.release_commands import AsIfAgainOption, MailJobArgument, OccurrenceOption

if TYPE_CHECKING:
    from rich.console import Console

    from mail_orchestration.broadcast import DryRun
    from mail_orchestration.dispatch.forecasting import DomainForecast, Forecast
    from mail_orchestration.feedback.books import Books
    from mail_orchestration.forecasts import ReleaseForecast

DOMAINS_SHOWN = 20
SHARES_SHOWN = (0.25, 0.5, 0.75, 1.0)
"""Of each curve, when so much is through."""


@command("dry-run", PANEL)
def dry_run_(
    face: Face,
    campaign: CampaignArgument,
    occurrence: OccurrenceOption = "",
    again: AsIfAgainOption = False,
) -> ExitCode | None:
    """Take a whole release through dedup and assembly, and send nothing. Exit code 1 when nobody would get it."""
    from mail_orchestration.broadcast import dry_run
    from mail_orchestration.forecasts import forecast_release

    with face.open() as inst:
        with face.progress("assembling") as progress:
            folder = campaign_folder(inst.settings, campaign)
            found = dry_run(
                inst, folder, now=inst.now(), occurrence=occurrence, again=again, progress=progress
            )
        foreseen = forecast_release(inst, found.mail_job_id, now=inst.now())
    document = {
        "mail_job_id": found.mail_job_id,
        "campaign": found.campaign,
        "audience_rows": found.books.audience_rows,
        "duplicates": found.books.duplicates,
        "recipients": found.books.recipients,
        "bypassed": found.books.bypassed,
        **kept_by_the_policy(found.books),
        "messages": found.messages,
        "assembled": found.assembled,
        "domains": found.domains,
        "forecast": foreseen,
    }

    def show(console: Console) -> None:
        _show_dry_run(console, found)
        if found.messages:
            _show_forecast(console, foreseen)

    face.answer(document, show)
    return None if found.messages else ExitCode.NOT_WELL


@command("forecast", PANEL)
def forecast_(face: Face, mail_job: MailJobArgument) -> ExitCode | None:
    """When a mail job's unsent messages will be through, under the limits and with the fleet of the settings."""
    from mail_orchestration.forecasts import forecast_release

    with face.open() as inst:
        foreseen = forecast_release(inst, mail_job, now=inst.now())
    face.answer(foreseen, lambda console: _show_forecast(console, foreseen))
    return None


def _show_dry_run(console: Console, found: DryRun) -> None:
    console.print(f"[bold]dry run of {escaped(found.campaign)}[/]: nothing was sent")
    show_choice(console, found)
    if not found.messages:
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


def kept_by_the_policy(account: Books) -> dict[str, object]:
    """Whom the frequency policy would keep from getting it, as a document has it."""
    return {
        "held": account.held,
        "discarded": account.discarded,
        "expired": account.expired,
        "held_by_rule": account.forbidden,
    }


def show_choice(console: Console, found: DryRun) -> None:
    """Who would get it, and who not and why."""
    account = found.books
    rows: list[tuple[str, int]] = [
        ("audience rows", account.audience_rows),
        ("duplicates", account.duplicates),
        ("recipients", account.recipients),
        *((f"bypassed: {reason}", count) for reason, count in account.bypassed.items()),
        *(
            (f"{word} by the frequency policy", count)
            for word, count in (
                ("held", account.held),
                ("discarded", account.discarded),
                ("expired at once", account.expired),
            )
            if count
        ),
        *((f"… by its rule {rule}", count) for rule, count in account.forbidden.items()),
        ("messages that would be sent", found.messages),
    ]
    console.print(table("", "", rows=rows))
    if not found.messages:
        console.print(
            "[yellow]Nobody would get it.[/]"
            if not account.held
            else "[yellow]Nobody would get it at once.[/]"
        )


def _show_forecast(console: Console, foreseen: ReleaseForecast) -> None:
    found = foreseen.forecast
    for sentence in foreseen.in_its_way:
        console.print(f"[yellow]{escaped(sentence)}[/]")
    if not found.messages:
        console.print("No message of it waits to be sent.")
        return
    if foreseen.finish_at is None or found.seconds is None:
        console.print(
            "[yellow]It would not be through within a year:[/] it waits for " + escaped(found.limited_by)
        )
        return
    console.print(
        f"begun now, it is through at [bold]{foreseen.finish_at:%Y-%m-%d %H:%M:%S %Z}[/], "
        f"in {duration(found.seconds)}; what holds it back most: {escaped(found.limited_by)}"
    )
    if foreseen.ahead:
        console.print(f"{shown(foreseen.ahead)} messages of other mail jobs come first or beside it")
    curves: list[tuple[str, Forecast | DomainForecast]] = [("all", found)]
    curves += [(each.domain, each) for each in found.domains[:DOMAINS_SHOWN]]
    rows = [
        (
            name,
            each.messages,
            *("" if (s := each.reached(share)) is None else duration(s) for share in SHARES_SHOWN),
        )
        for name, each in curves
    ]
    console.print(table("domain", "messages", *(f"{share:.0%} after" for share in SHARES_SHOWN), rows=rows))
    if foreseen.assumed:
        names = ", ".join(foreseen.assumed)
        console.print(f"The speed of {escaped(names)} is a guess: nothing was sent by them in 30 days.")
    if foreseen.may_be_faster:
        console.print("The fleet's speed is the best that was seen, maybe under a limit: it may be faster.")

"""What the demo says: its course as it happens, and at the end what became of the mail, with the proof."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.text import Text

from mail_orchestration.cli.campaign_commands import show_message
from mail_orchestration.cli.demo_course import Filled, Held, Moment
from mail_orchestration.cli.demo_proof import Proof, prove
from mail_orchestration.cli.demo_site import REMINDER, Site
from mail_orchestration.cli.face import Face, plain, table
from mail_orchestration.cli.frequency_tables import show_why
from mail_orchestration.cli.message_commands import read_exact_message
from mail_orchestration.feedback.reports import MailJobReport, mail_job_report

SHOWN_LINES = 9


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that the demo found."""

    mail_job_id: int
    seconds: float
    """From the release to P_FINISHED."""
    filled: Filled
    report: MailJobReport
    proof: Proof
    messages: list[bytes]
    """Two of them, as they were sent."""
    rate: int
    """Messages per second that the demo's settings allow each mailcaster."""
    is_reported: bool
    """Dagster has materialised its own report."""
    held: Held
    """What became of the second campaign."""

    @property
    def is_well(self) -> bool:
        """The books balance, nothing waits, the relay has what it accepted, once, and the second campaign is held."""
        return self.report.books.balances and self.proof.holds and self.is_reported and self.held.mails > 0

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "mail_job_id": self.mail_job_id,
            "state": self.report.state,
            "seconds": round(self.seconds, 1),
            "imports": self.filled,
            "books": plain(self.report.books) | {"balances": self.report.books.balances},
            "children": self.report.mail_jobs,
            "messages_per_second": self.report.messages_per_second,
            "proof": plain(self.proof) | {"holds": self.proof.holds},
            "reported_by_dagster": self.is_reported,
            "held": {
                "mail_job_id": self.held.mail_job_id,
                "recipients": self.held.recipients,
                "mails": self.held.mails,
            },
        }


def gather(
    site: Site, mail_job_id: int, *, seconds: float, filled: Filled, is_reported: bool, held: Held
) -> Outcome:
    """Report on the ended mail job and compare it with the relay's store."""
    with site.inst.database.begin() as connection:
        report = mail_job_report(connection, mail_job_id)
    return Outcome(
        mail_job_id=mail_job_id,
        seconds=seconds,
        filled=filled,
        report=report,
        proof=prove(site.inst, mail_job_id, site.relay_folder, report.books),
        messages=[read_exact_message(site.inst, mail_job_id, str(number))[1] for number in _two(report)],
        rate=site.rate,
        is_reported=is_reported,
        held=held,
    )


def _two(report: MailJobReport) -> list[int]:
    """The first message, and one from the end: of another audience, so of another kind."""
    last = report.books.assembled
    return [1, last] if last > 1 else [1]


class Teller:
    """Says it on stdout, for people; with `--json` nothing until the end."""

    def __init__(self, face: Face) -> None:
        self._console = face.console
        self._is_terminal = face.console.is_terminal

    def headline(self, sentence: str) -> None:
        """The beginning of a chapter."""
        self._console.print(f"\n[bold]{sentence}[/]")

    def line(self, sentence: str, began: float) -> None:
        """Something was done, so many seconds after `began` (monotonic)."""
        self._console.print(f"[dim]{time.monotonic() - began:6.1f} s[/]  {sentence}")

    def imports(self, site: Site, filled: Filled) -> None:
        """What the imports did."""
        files = {each.name: each for each in site.inst.settings.audiences}
        rows = []
        for name, summary in filled.audiences.items():
            described = files[name]
            file = described.csv or described.parquet or described.direct_mailer
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(summary.by_reason.items()))
            rows.append(
                (
                    name,
                    file.name if file else "",
                    summary.rows_read,
                    summary.members,
                    summary.rows_rejected,
                    reasons,
                )
            )
        self.headline(f"Audiences: {site.files.people:,} people in three overlapping lists")
        self._console.print(table("audience", "file", "rows", "members", "rejected", "because", rows=rows))
        self._console.print(
            f"{filled.suppressed:,} of them had opted out before, and stand on the suppression list."
        )

    def moment(self, moment: Moment) -> None:
        """Something happened to the mail job."""
        if moment.sentence:
            self._console.print(f"[dim]{moment.seconds:6.1f} s[/]  {moment.sentence}")

    def outcome(self, outcome: Outcome) -> None:
        """Books, children, refusals, proof, two messages."""
        self._books(outcome)
        self._children(outcome)
        self._proof(outcome)
        self.headline("Two of the messages, as the relay has them")
        for data in outcome.messages:
            show_message(self._console, data, lines=SHOWN_LINES)
        self._held(outcome)

    def _held(self, outcome: Outcome) -> None:
        held = outcome.held
        self.headline(f"Nobody too often: {REMINDER}, released to {held.recipients:,} of the same people")
        self._console.print(
            f"{held.mails:,} of its mails are held: the policy of the demo's settings lets one a day through. "
            "They go with the nightly close of the day. `mail-orchestration frequency why` says of one of them:"
        )
        if held.why is not None:
            show_why(self._console, held.why)

    def farewell(self, outcome: Outcome, folder: Path, began: float) -> None:
        """Where things lie, and the verdict."""
        self.whereabouts(folder, command="demo")
        verdict = "[bold green]All is well[/]" if outcome.is_well else "[bold red]Not all is well[/]"
        self._console.print(
            f"\n{verdict}: {time.monotonic() - began:.0f} s in all, and every process has ended."
        )

    def whereabouts(self, folder: Path, *, command: str) -> None:
        """Folders, and commands to look further."""
        shown = shlex.quote(os.path.relpath(folder))
        program = "mail-orchestration"
        settings = f"--settings {shown}/mail_orchestration.yaml"
        content = Text()
        for what, where in (
            ("mail that the relay stored", f"{shown}/relay/new (a Maildir)"),
            ("imported files", f"{shown}/audiences"),
            ("settings", f"{shown}/mail_orchestration.yaml"),
            ("logs", f"{shown}/logs"),
            ("database", f"{shown}/postgres"),
        ):
            content.append(f"{what:28}", style="dim").append(f"{where}\n")
        content.append("\n")
        for line in (
            f"{program} status {settings}",
            f"{program} mail-jobs 1 {settings}",
            f"{program} report 1 {settings}",
            f"{program} message 1 1 {settings}",
            f"{program} frequency {settings}",
            *([f"{program} processes {settings}"] if command == "dev" else []),
        ):
            content.append(f"{line}\n", style="cyan")
        content.append("mail-orchestration is in .venv/bin. " if command == "demo" else "", style="dim")
        content.append("make dev leaves Dagster's UI up." if command == "demo" else "", style="dim")
        self._console.print(
            Panel(content, title="Where things lie, and how to look further", title_align="left")
        )

    def _books(self, outcome: Outcome) -> None:
        books = outcome.report.books
        self.headline("Books (spec 1.8): every audience row has exactly one place")
        balance = "[green]balance[/]" if books.balances else "[red]do not balance[/]"
        self._console.print(f"{books.explanation}\nThey {balance}.")
        if books.bypassed:
            rows = list(books.bypassed.items())
            self._console.print(table("bypassed because", "recipients", rows=rows))

    def _children(self, outcome: Outcome) -> None:
        report = outcome.report
        self.headline("Mailcasters and their children")
        by: dict[str, list[Any]] = {}
        for line in report.mail_jobs:
            if line.mailcaster is not None and line.first_message and line.last_message:
                by.setdefault(line.mailcaster, []).append(line)
        rows = []
        for name, lines in sorted(by.items()):
            sizes = ", ".join(f"{line.last_message - line.first_message + 1:,}" for line in lines[:8])
            more = f" … ({len(lines)})" if len(lines) > 8 else ""
            rates = [line.results_per_second for line in lines if line.results_per_second]
            rows.append(
                (
                    name,
                    len(lines),
                    sum(line.accepted for line in lines),
                    sum(line.rejected for line in lines),
                    sum(line.deferred for line in lines),
                    round(sum(rates) / len(rates), 1) if rates else None,
                    sizes + more,
                )
            )
        heads = (
            "mailcaster",
            "children",
            "accepted",
            "rejected",
            "deferred",
            "results/s",
            "sizes of its children",
        )
        self._console.print(table(*heads, rows=rows))
        rate = report.messages_per_second
        if rate:
            self._console.print(
                f"{rate:,.0f} results/s together; {outcome.seconds:.0f} s from release to {report.state}. "
                f"The demo's settings allow {outcome.rate} messages/s in all, so that all three find work."
            )
        replies = [
            (each.outcome.value, each.reply_code, each.enhanced_code, each.results, each.sample)
            for each in report.replies
            if each.outcome.value != "accepted"
        ]
        if replies:
            self._console.print(table("refused", "code", "enhanced", "results", "reply", rows=replies))

    def _proof(self, outcome: Outcome) -> None:
        proof = outcome.proof
        self.headline("Proof: what the relay stored, compared octet for octet with what was assembled")
        rows = [
            ("stored by the relay", proof.stored_by_relay),
            ("accepted, by our results", proof.accepted),
            ("there twice", proof.twice),
            ("altered on the way", proof.altered),
            ("missing", proof.missing),
            ("there and should not be", proof.unexpected),
        ]
        self._console.print(table("", "messages", rows=rows))
        verdict = (
            "[green]Every accepted message is there exactly once.[/]"
            if proof.holds
            else "[red]It does not hold.[/]"
        )
        self._console.print(verdict)
        if not outcome.is_reported:
            self._console.print("[red]Dagster has not materialised mail_job_report in time.[/]")

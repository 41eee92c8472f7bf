"""What became of one mail job, for people: books, children, domains, replies, the course of time.

No address of a person is in a report, since it goes to faces that every viewer can read. Reads of a mail job
that is still being sent are of slightly different instants, one for each table; the books are of one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from mail_orchestration.feedback.books import Books, LaterMailJob, books, later_mail_jobs, release_facts
from mail_orchestration.feedback.tables import markdown_table
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState

if TYPE_CHECKING:
    import pandas as pd

TOP = 20
"""Rows of the tables of domains and of replies."""
BUCKETS = 120
"""The most buckets that the timeline has, weeks aside."""

_BUCKET_SECONDS = (1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600)
_ADDRESS = re.compile(r'"[^"]*"@\S+|\S*@\S*')
_SAMPLE_CHARACTERS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class MailJobLine:
    """What one mail job of the release did, in results, and where the messages are whose last result is its own."""

    mail_job_id: int
    recovers: int | None
    """The mail job that this one was made from by recovery."""
    state: MailJobState
    mailcaster: str | None
    first_message: int | None
    last_message: int | None
    results: int
    """A message that was tried twice counts twice."""
    accepted: int
    deferred: int
    rejected: int
    uncertain: int
    others: int
    """Stopped and expired."""
    seconds: float
    """From its first result to its last."""
    results_per_second: float | None
    """None where there is but one moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainLine:
    """One recipient domain; the last result of each message counts."""

    domain: str
    messages: int
    accepted: int
    deferred: int
    rejected: int
    uncertain: int
    others: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyLine:
    """One answer of the relays, or a reason of our own where there is no reply code."""

    outcome: Outcome
    reply_code: int | None
    enhanced_code: str | None
    results: int
    sample: str
    """One of its texts, without addresses; empty for accepted ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineBucket:
    """Results of one outcome in one span of time."""

    starts_at: datetime
    outcome: Outcome
    results: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BypassLine:
    """Recipients that were skipped for one reason."""

    reason: str
    recipients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrequencyLine:
    """Recipients whom one rule of the frequency policy kept from getting it at once."""

    rule: str
    recipients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MailJobReport:
    """The whole report of one release (spec 10.4, as far as feedback knows by now)."""

    release_id: int
    campaign: str
    state: MailJobState
    reason: str
    released_at: datetime
    held_from: int | None
    """The mail job whose held mails this one sends."""
    is_dry_run: bool
    books: Books
    later_mail_jobs: Sequence[LaterMailJob]
    """Those that send what was held of this one: they are in its books, and have reports of their own for the rest."""
    mail_jobs: Sequence[MailJobLine]
    domains: Sequence[DomainLine]
    replies: Sequence[ReplyLine]
    bypasses: Sequence[BypassLine]
    frequency: Sequence[FrequencyLine]
    timeline: Sequence[TimelineBucket]
    bucket_seconds: int
    first_result_at: datetime | None
    last_result_at: datetime | None
    counted_at: datetime
    """By the database's clock, before the first row was counted."""
    messages_per_second: float | None
    """Results over the time from the first to the last of all; None where there is but one moment."""

    @property
    def hint(self) -> str:
        """What is left to the operator, in a sentence; '' where nothing is."""
        if not self.state.is_ended:
            return ""
        hints = []
        if self.books.held and not self.is_dry_run:
            hints.append(
                f"{self.books.held:,} wait in the frequency queue: "
                f"`mail-orchestration frequency queue --campaign {shlex.quote(self.campaign)}` lists them."
            )
        if self.books.uncertain:
            hints.append(
                f"Of {self.books.uncertain:,} nobody knows whether they arrived: "
                f"`mail-orchestration uncertain {self.release_id}` lists them, and takes what you find out."
            )
        if self.books.retried:
            hints.append(
                f"{self.books.retried:,} wait for another attempt: "
                f"`mail-orchestration loose-mails --mail-job {self.release_id}` lists them."
            )
        if self.books.resting:
            hints.append(
                f"{self.books.resting:,} are tried no more until you say so: `mail-orchestration dead-letters` lists "
                "them, resubmits and deletes them."
            )
        return " ".join(hints)

    def tables(self) -> Mapping[str, tuple[type[Any], Sequence[Any]]]:
        """The report's tables by name: what a row is, and the rows."""
        return {
            "mail_jobs": (MailJobLine, self.mail_jobs),
            "domains": (DomainLine, self.domains),
            "replies": (ReplyLine, self.replies),
            "bypasses": (BypassLine, self.bypasses),
            "frequency": (FrequencyLine, self.frequency),
            "later_mail_jobs": (LaterMailJob, self.later_mail_jobs),
            "timeline": (TimelineBucket, self.timeline),
        }

    def to_markdown(self) -> str:
        """Headline, books and tables, for Dagster's metadata and the terminal."""
        rate = "" if self.messages_per_second is None else f", {self.messages_per_second:,.1f} results/s"
        parts = [
            f"**{self.campaign}**, mail job {self.release_id}: {self.state}"
            + (f" ({self.reason})" if self.reason else "")
            + rate,
            *([f"It sends held mails of mail job {self.held_from}."] if self.held_from else []),
            "\n".join(f"- {line}" for line in self.books.explanation.splitlines()),
            *([self.hint] if self.hint else []),
        ]
        for name, (kind, rows) in self.tables().items():
            if rows and name != "timeline":
                names = [field.name for field in fields(kind)]
                cells = [[getattr(row, column) for column in names] for row in rows]
                parts.append(f"### {name.replace('_', ' ').capitalize()}\n\n{markdown_table(names, cells)}")
        return "\n\n".join(parts)

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables as DataFrames, with their columns even where there is no row."""
        import pandas as pd

        return {
            name: pd.DataFrame(
                [{field.name: getattr(row, field.name) for field in fields(kind)} for row in rows],
                columns=[field.name for field in fields(kind)],
            )
            for name, (kind, rows) in self.tables().items()
        }


def mail_job_report(connection: Connection, release_id: int) -> MailJobReport:
    """Report on a release, in the caller's transaction: seconds for a million messages. Raises NotFound.

    `kept_reports.current_report` counts only what has changed since it was counted last.
    """
    counted_at = database_now(connection)
    facts = release_facts(connection, release_id)
    the_books = books(connection, release_id)
    key: dict[str, int | date] = {"release_id": release_id, "released_on": facts.released_on}
    mail_jobs = connection.execute(STATEMENTS["report_mail_jobs"], key).all()
    firsts = [row.first_result_at for row in mail_jobs if row.first_result_at is not None]
    lasts = [row.last_result_at for row in mail_jobs if row.last_result_at is not None]
    first, last = min(firsts, default=None), max(lasts, default=None)
    seconds = _seconds_between(first, last)
    bucket = bucket_seconds(seconds)
    lines = [_mail_job_line(row) for row in mail_jobs]
    results = sum(line.results for line in lines)
    return MailJobReport(
        release_id=release_id,
        campaign=facts.campaign,
        state=facts.state,
        reason=without_addresses(facts.reason, most=None),
        released_at=facts.released_at,
        held_from=facts.held_from,
        is_dry_run=facts.is_dry_run,
        books=the_books,
        later_mail_jobs=later_mail_jobs(connection, release_id),
        mail_jobs=lines,
        domains=_domains(connection, key),
        replies=_replies(connection, key),
        bypasses=[
            BypassLine(reason=reason, recipients=number) for reason, number in the_books.bypassed.items()
        ],
        frequency=[
            FrequencyLine(rule=rule, recipients=number) for rule, number in the_books.forbidden.items()
        ],
        timeline=_timeline(connection, key, bucket),
        bucket_seconds=bucket,
        counted_at=counted_at,
        first_result_at=first,
        last_result_at=last,
        messages_per_second=results / seconds if seconds else None,
    )


def bucket_seconds(seconds: float) -> int:
    """The narrowest width of bucket with which `seconds` make no more than BUCKETS of them."""
    return next((width for width in _BUCKET_SECONDS if seconds < width * (BUCKETS - 1)), _BUCKET_SECONDS[-1])


def without_addresses(reply_text: str | None, *, most: int | None = _SAMPLE_CHARACTERS) -> str:
    """A relay's text in one line of at most so many letters, with every address in it replaced."""
    line = " ".join((reply_text or "").split())
    return _ADDRESS.sub("‹address›", line)[:most]


def _mail_job_line(row: Any) -> MailJobLine:
    seconds = _seconds_between(row.first_result_at, row.last_result_at)
    return MailJobLine(
        mail_job_id=row.mail_job_id,
        recovers=row.recovers_id,
        state=MailJobState(row.state),
        mailcaster=row.mailcaster,
        first_message=row.first_message,
        last_message=row.last_message,
        results=row.results,
        accepted=row.accepted,
        deferred=row.deferred,
        rejected=row.rejected,
        uncertain=row.uncertain,
        others=row.others,
        seconds=seconds,
        results_per_second=row.results / seconds if seconds else None,
    )


def _domains(connection: Connection, key: Mapping[str, int | date]) -> list[DomainLine]:
    rows = connection.execute(STATEMENTS["report_domains"], {**key, "most": TOP})
    return [DomainLine(**row._mapping) for row in rows]


def _replies(connection: Connection, key: Mapping[str, int | date]) -> list[ReplyLine]:
    return [
        ReplyLine(
            outcome=Outcome(row.outcome),
            reply_code=row.reply_code,
            enhanced_code=row.enhanced_code,
            results=row.results,
            sample=without_addresses(row.sample),
        )
        for row in connection.execute(STATEMENTS["report_replies"], {**key, "most": TOP})
    ]


def _timeline(connection: Connection, key: Mapping[str, int | date], bucket: int) -> list[TimelineBucket]:
    rows = connection.execute(STATEMENTS["report_timeline"], {**key, "bucket_seconds": bucket})
    return [
        TimelineBucket(starts_at=row.starts_at, outcome=Outcome(row.outcome), results=row.results)
        for row in rows
    ]


def _seconds_between(first: datetime | None, last: datetime | None) -> float:
    return 0.0 if first is None or last is None else (last - first).total_seconds()

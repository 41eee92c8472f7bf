"""How far a mail job is that somebody works on, by figures that are noted under way: read at once, however large it is.

A mailcaster notes the figures of what it has in hand a few times a second, retries change them with their results. So
they are of a moment ago, and say nothing of replies, domains or reasons: the report does, which counts rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from mail_orchestration.feedback.books import release_facts
from mail_orchestration.feedback.reports import without_addresses
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressLine:
    """One mail job that messages are sent under: where those stand whose last result is its own."""

    mail_job_id: int
    recovers: int | None
    """The mail job that this one was made from by recovery."""
    state: MailJobState
    mailcaster: str | None
    first_message: int | None
    last_message: int | None
    accepted: int
    deferred: int
    rejected: int
    uncertain: int
    stopped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the messages of one release are; what the frequency policy held of it is not among them."""

    release_id: int
    campaign: str
    state: MailJobState
    reason: str
    read_at: datetime
    """By the database's clock."""
    messages: int
    accepted: int
    deferred: int
    rejected: int
    uncertain: int
    stopped: int
    left: int
    """Those that wait or are being sent, and those that have expired, of which no figure is noted."""
    mail_jobs: Sequence[ProgressLine]


def read_progress(connection: Connection, release_id: int) -> Progress:
    """The progress of a release, in the caller's transaction. Raises NotFound."""
    read_at = database_now(connection)
    facts = release_facts(connection, release_id)
    rows = connection.execute(STATEMENTS["read_progress"], {"release_id": release_id})
    lines = [ProgressLine(**{**row._mapping, "state": MailJobState(row.state)}) for row in rows]
    figures = {
        name: sum(getattr(line, name) for line in lines)
        for name in ("accepted", "deferred", "rejected", "uncertain", "stopped")
    }
    return Progress(
        release_id=release_id,
        campaign=facts.campaign,
        state=facts.state,
        reason=without_addresses(facts.reason, most=None),
        read_at=read_at,
        messages=facts.messages,
        left=facts.messages - sum(figures.values()),
        mail_jobs=lines,
        **figures,
    )

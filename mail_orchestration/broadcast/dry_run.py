"""A dry run: a whole release through dedup and assembly, as it would go out now, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mail_orchestration.broadcast.assembling import AssemblySummary, Progress, assemble_release
from mail_orchestration.broadcast.carrying_on import resolve_release
from mail_orchestration.broadcast.releasing import release_campaign
from mail_orchestration.dispatch.mail_jobs import DRY_RUN, queue_mail_job, transition
from mail_orchestration.dispatch.unsent import unsent_by_domain
from mail_orchestration.feedback.books import Books, books
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.states import MailJobState


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a release would come to. Its messages are stored, and can be read, until their retention is over."""

    mail_job_id: int
    campaign: str
    books: Books
    """`bypassed` by reason, `forbidden` by rule; what would be sent stands under `stopped`, since nothing is sent, or
    under `unassembled`."""
    assembled: AssemblySummary | None
    """None when nobody is left to be written to, or it ended before assembly."""
    domains: Mapping[str, int]
    """Messages by recipient domain, most first."""

    @property
    def messages(self) -> int:
        """How many would be sent."""
        return self.books.stopped + self.books.unassembled


def dry_run(
    inst: Installation,
    folder: Path,
    *,
    now: datetime,
    occurrence: str = "",
    again: bool = False,
    assemble: bool = True,
    on_resolved: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> DryRun:
    """Freeze, dedup, verify, filter and assemble a campaign, and stop before the queue.

    Nobody else carries it on, and mail jobs of the campaign that wait are left alone. `on_resolved` is told how many
    are to be written to; `occurrence` and `again` as in `release_campaign`. Without `assemble` it ends when all are
    chosen, after seconds for a million. Raises what `release_campaign`, `resolve_release` and `assemble_release` raise.
    """
    made = release_campaign(inst, folder, now=now, occurrence=occurrence, again=again, dry_run=True)
    release_id = made.release_id
    resolved = resolve_release(inst, release_id, now=now)
    if on_resolved is not None:
        on_resolved(resolved.to_assemble)
    assembled = None
    if resolved.to_assemble and assemble:
        assembled = assemble_release(inst, release_id, now=now, progress=progress)
    with inst.database.begin() as connection:
        if assembled is not None:
            # Straight to its end, whenever the campaign starts: a dry run is STOPPED instead of being queued.
            queue_mail_job(connection, release_id, now)
        elif resolved.to_assemble:
            transition(connection, release_id, MailJobState.QUEUING, MailJobState.STOPPED, DRY_RUN, now)
        return DryRun(
            mail_job_id=release_id,
            campaign=made.campaign,
            books=books(connection, release_id),
            assembled=assembled,
            domains=unsent_by_domain(connection, release_id),
        )

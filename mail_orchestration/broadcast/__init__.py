"""The broadcast story: from a campaign and its audiences to a mail job in the global queue.

    fill_audience → release_campaign → resolve_release → assemble_release → queue_release

Each step can be taken again: what is already done is told, not done twice.
"""

from mail_orchestration.broadcast.assembling import AssemblySummary, assemble_release
from mail_orchestration.broadcast.carrying_on import (
    queue_release,
    release,
    releases_to_assemble,
    releases_to_queue,
    releases_to_report,
    report_release,
    resolve_release,
)
from mail_orchestration.broadcast.dry_run import DryRun, dry_run
from mail_orchestration.broadcast.releasing import fill_audience, release_again, release_campaign

__all__ = [
    "AssemblySummary",
    "DryRun",
    "assemble_release",
    "dry_run",
    "fill_audience",
    "queue_release",
    "release",
    "release_again",
    "release_campaign",
    "releases_to_assemble",
    "releases_to_queue",
    "releases_to_report",
    "report_release",
    "resolve_release",
]

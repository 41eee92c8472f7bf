"""The demo's course: fill the audiences, release, watch Dagster's sensors; then a second campaign, which is held."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mail_orchestration.audience.described_source import source_of_settings
from mail_orchestration.audience.importing import ImportSummary
from mail_orchestration.audience.suppressing import import_suppressions
from mail_orchestration.broadcast import fill_audience, release_campaign, releases_to_report, resolve_release
from mail_orchestration.cli.demo_dagster import Dagster, failed_run
from mail_orchestration.cli.demo_site import Site
from mail_orchestration.cli.mail_job_commands import read_tree
from mail_orchestration.dispatch.mail_jobs import MailJob
from mail_orchestration.frequency.why import Why, waiting_mails, why
from mail_orchestration.kernel.errors import MailOrchestrationError, StateConflict
from mail_orchestration.kernel.settings import AudienceSettings
from mail_orchestration.kernel.states import MailJobState

LOOK_EVERY_SECONDS = 0.5
ASK_DAGSTER_EVERY_SECONDS = 5.0
REPORT_WITHIN_SECONDS = 120.0
"""A run begins within seconds, and on a busy machine within a minute or two."""


class DemoFailed(MailOrchestrationError):
    """The demo did not come to its end."""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What the imports did."""

    audiences: dict[str, ImportSummary]
    suppressed: int


def fill(site: Site) -> Filled:
    """Import the three audiences from their files, then the suppression list."""
    inst = site.inst
    now = inst.now()
    done = {each.name: fill_audience(inst, each.name, now=now) for each in inst.settings.audiences}
    described = AudienceSettings(name="suppressions", csv=site.files.suppressions)
    source = source_of_settings(described, own_url=inst.database.url)
    suppressed = import_suppressions(inst.database, inst.installation_id, source, "opted_out", now=now)
    return Filled(audiences=done, suppressed=suppressed.rows_suppressed)


def release(site: Site) -> int:
    """Release the campaign; nothing else is done here: the sensors find it. Returns the mail job's number."""
    return release_campaign(
        site.inst, site.campaign_folder, now=site.inst.now(), request_key="demo"
    ).release_id


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Something that happened to the mail job."""

    seconds: float
    """Since the release."""
    sentence: str
    done: int
    total: int


def watch(site: Site, dagster: Dagster, mail_job_id: int, *, within_seconds: float) -> Iterator[Moment]:
    """What happens to the mail job as it happens, until it has ended well.

    Raises DemoFailed when it ends otherwise or not in time, ServiceFailed when a process has ended.
    """
    began = time.monotonic()
    ask_again_at = began + ASK_DAGSTER_EVERY_SECONDS
    state: MailJobState | None = None
    seen: dict[int, MailJobState] = {}
    while True:
        parent, children = read_tree(site.inst, mail_job_id)
        seconds = time.monotonic() - began
        done, total = sum(child.sent for child in children), parent.message_count

        def moment(sentence: str, at: float = seconds, done: int = done, total: int = total) -> Moment:
            return Moment(seconds=at, sentence=sentence, done=done, total=total)

        for child in children:
            if seen.get(child.mail_job_id) is not child.state:
                seen[child.mail_job_id] = child.state
                yield moment(_sentence(child))
        if parent.state is not state:
            state = parent.state
            yield moment(f"mail job {mail_job_id} is {state}{f': {parent.reason}' if parent.reason else ''}")
        else:
            yield moment("")
        if state.is_ended or state is MailJobState.INTERRUPTED:
            break
        if seconds > within_seconds:
            raise DemoFailed(
                f"mail job {mail_job_id} is {state} after {within_seconds:.0f} s and should have ended; "
                f"look at the logs in {site.folder / 'logs'}"
            )
        site.services.require_alive()
        if time.monotonic() > ask_again_at:
            ask_again_at = time.monotonic() + ASK_DAGSTER_EVERY_SECONDS
            if (failed := failed_run(site, dagster)) is not None:
                raise DemoFailed(
                    f"mail job {mail_job_id} is {state}, and Dagster's run {failed} has failed; "
                    f"why is at the end of {site.folder / 'logs' / 'code-server.log'}"
                )
        time.sleep(LOOK_EVERY_SECONDS)
    if state is not MailJobState.P_FINISHED:
        raise DemoFailed(f"mail job {mail_job_id} ended as {state} and not as P_FINISHED: {parent.reason}")


def wait_for_report(site: Site, mail_job_id: int) -> bool:
    """True once Dagster has materialised the report of the ended mail job; False when that takes too long."""
    return _eventually(lambda: mail_job_id not in releases_to_report(site.inst), REPORT_WITHIN_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the frequency policy did to the second campaign."""

    mail_job_id: int
    recipients: int
    mails: int
    """Held until tomorrow."""
    why: Why | None
    """For one of those whose mail is held."""


def release_reminder(site: Site) -> Held:
    """Release the second campaign, and look at the frequency queue: it is resolved here and at once.

    Raises DemoFailed when it is not resolved in time.
    """
    made = release_campaign(site.inst, site.reminder_folder, now=site.inst.now(), request_key="demo reminder")
    if not _eventually(lambda: _is_resolved(site, made.release_id), REPORT_WITHIN_SECONDS):
        raise DemoFailed(f"mail job {made.release_id} is not resolved in time")
    resolved = resolve_release(site.inst, made.release_id, now=site.inst.now())
    waiting = waiting_mails(site.inst, limit=1)
    return Held(
        mail_job_id=made.release_id,
        recipients=resolved.recipients,
        mails=resolved.bypassed.get("held", 0),
        why=why(site.inst, waiting[0].mail.address) if waiting else None,
    )


def _is_resolved(site: Site, mail_job_id: int) -> bool:
    try:
        resolve_release(site.inst, mail_job_id, now=site.inst.now())
    except StateConflict:
        return False  # Dagster's sensor was quicker, and is at it.
    return True


def _eventually(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY_SECONDS)
    return True


def _sentence(child: MailJob) -> str:
    span = f"messages {child.first_message:,}–{child.last_message:,}"
    if child.state is MailJobState.RUNNING:
        return f"{child.mailcaster} takes child {child.mail_job_id}: {span}"
    return (
        f"child {child.mail_job_id} is {child.state}: {child.accepted:,} accepted, "
        f"{child.rejected:,} rejected, {child.deferred:,} deferred"
    )

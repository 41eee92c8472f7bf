"""A release is carried on: resolved to recipients, queued when it is assembled, and reported in the end."""

from __future__ import annotations

from datetime import datetime

from mail_orchestration.audience.resolving import AUDIENCE_STAGES, ResolveSummary, resolve_recipients
from mail_orchestration.campaigns import stop_if_edited
from mail_orchestration.composition.edits import SETTLES_AFTER, Edit
from mail_orchestration.dispatch import releases
from mail_orchestration.dispatch.mail_jobs import queue_mail_job, transition
from mail_orchestration.dispatch.releases import Release
from mail_orchestration.feedback.kept_reports import counted_report
from mail_orchestration.feedback.reports import MailJobReport
from mail_orchestration.frequency import foresee_policy, prepare_gate
from mail_orchestration.frozen import read_frozen
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.components import load_components
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.errors import ComponentFailed, NotFound, StateConflict
from mail_orchestration.kernel.states import MailJobState


def release(inst: Installation, release_id: int) -> Release:
    """One release. Raises NotFound."""
    with inst.database.begin() as connection:
        return releases.read_release(connection, inst.installation_id, release_id)


def releases_to_assemble(inst: Installation) -> list[int]:
    """Mail jobs that wait for the process Assemble (spec 6.1)."""
    with inst.database.begin() as connection:
        return releases.releases_to_assemble(connection, inst.installation_id)


def releases_to_queue(inst: Installation, *, now: datetime | None = None) -> list[int]:
    """Mail jobs that wait for the process Queue for delivery (spec 6.1), now by the database's clock or at `now`."""
    with inst.database.begin() as connection:
        return releases.releases_to_queue(connection, inst.installation_id, now or database_now(connection))


def releases_to_report(inst: Installation) -> list[int]:
    """Mail jobs that have ended and wait for their report."""
    with inst.database.begin() as connection:
        return releases.releases_to_report(connection, inst.installation_id)


def resolve_release(inst: Installation, release_id: int, *, now: datetime) -> ResolveSummary:
    """Dedup, verify and filter (spec 1.3 to 1.6): who gets it, and who is bypassed and why.

    Before the gate of the frequency policy its counters are brought up to date: nobody is held without need. A dry run
    brings nothing up to date, and foresees what the policy of the settings would do: by the daily log, what is on its
    way, and what arrived on days that are not closed.
    Whoever was queued the same content lately is bypassed as a duplicate (spec 6.6), but not of a release that was made
    again, nor of a campaign in state test.

    All or nothing, and once for each release: done before, it tells what it did. Raises ComponentFailed when a custom
    component raised, NotFound when there is none by that name: the mail job is FAILED then, and nothing is sent.
    Raises StateConflict when it is not QUEUING, or STOPPED just now as its campaign was edited.
    """
    stop_if_edited(inst, release_id, now=now)
    with inst.database.begin() as connection:
        frozen = read_frozen(connection, inst, release_id)
    is_dry_run = frozen.release.is_dry_run
    if not is_dry_run:
        prepare_gate(inst, now=now)
    definition = frozen.campaign.definition
    try:
        return resolve_recipients(
            inst.database,
            release_id,
            small_audience_threshold=inst.settings.dispatcher.small_audience_threshold,
            required_attributes=definition.required_attributes,
            components=[
                component
                for stage in AUDIENCE_STAGES
                for component in load_components(definition.components, stage)
            ],
            history=None
            if frozen.release.again or definition.state == "test"
            else inst.settings.retention.history,
            time_zone=inst.settings.zone,
            wished=foresee_policy(inst, now=now) if is_dry_run else None,
            now=now,
        )
    except (ComponentFailed, NotFound) as failure:
        with inst.database.begin() as connection:
            transition(connection, release_id, MailJobState.QUEUING, MailJobState.FAILED, str(failure), now)
        raise


def queue_release(inst: Installation, release_id: int, *, now: datetime | None = None) -> MailJobState:
    """Put an assembled mail job into the global queue: QUEUED, P_QUEUED, or STOPPED without a message (spec 1.7).

    Its age counts from now by the database's clock, which all hosts share, or from `now` (spec 4.3, 5.4).
    Queued before, it stays as it is and its state is told. A dry run is STOPPED here, and so is a mail job whose
    campaign was edited meanwhile (spec 3.4). Raises StateConflict before its start time (spec 3.6), and while the
    campaign's folder is being edited.
    """
    now = now or inst.now()
    edit = stop_if_edited(inst, release_id, now=now)
    with inst.database.begin() as connection:
        found = releases.read_release(connection, inst.installation_id, release_id)
        if found.state is not MailJobState.QUEUING:
            return found.state
        if found.starts_at is not None and now < found.starts_at:
            raise StateConflict(f"mail job {release_id} does not start before {found.starts_at.isoformat()}")
        if edit is Edit.UNDER_WAY:
            raise StateConflict(
                f"mail job {release_id} is not queued yet: the folder of campaign {found.campaign} is being edited; "
                f"what it says after {SETTLES_AFTER.seconds} s without a change decides"
            )
        state = queue_mail_job(connection, release_id, now)
        crash_point("queue_marked")
    crash_point("queue_committed")
    return state


def report_release(inst: Installation, release_id: int, *, now: datetime) -> MailJobReport:
    """What became of a release so far (spec 10.4). When it has ended, this is noted as its report."""
    with inst.database.begin() as connection:
        releases.read_release(connection, inst.installation_id, release_id)
        report = counted_report(connection, release_id)
        releases.mark_reported(connection, release_id, now)
        crash_point("report_marked")
        return report

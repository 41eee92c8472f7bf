"""The control story: the operator stops and restarts one mail job, a campaign, or everything (spec 5.6, 11.2).

Everything is what the installation has at this moment; what is released later is not stopped by it.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from mail_orchestration.dispatch.campaigns import campaign_number
from mail_orchestration.dispatch.mail_jobs import mail_job
from mail_orchestration.dispatch.operating import Operated, signs_now
from mail_orchestration.dispatch.restarting import mail_jobs_to_restart, restart_mail_job
from mail_orchestration.dispatch.resting import rest_loose_mails, wake_loose_mails
from mail_orchestration.dispatch.stopping import end_stopping_of_dead, mail_jobs_to_stop, stop_mail_job
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.loose_mail_states import LooseMailState
from mail_orchestration.kernel.states import MailJobState

LOOK_EVERY_S = 0.2
"""How often it is looked whether mailcasters have let go: they notice a stop within two seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which mail jobs are meant: exactly one of the three. Raises BadInput otherwise."""

    mail_job: int | None = None
    campaign: str | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        if [self.mail_job is not None, self.campaign is not None, self.everything].count(True) != 1:
            raise BadInput("name one of these: a mail job, a campaign, or everything")


def stop(inst: Installation, scope: Scope, *, now: datetime | None = None) -> list[Operated]:
    """Stop what is meant, now by the database's clock or at `now`: nothing more of it is sent but what is in flight.

    What waits is stopped at once, what is RUNNING when its mailcaster has let go of it, within two seconds, or at once
    when that is dead; what is being assembled, when it would be queued. Retries of its messages rest with it, also
    those of a mail job that has ended; with a campaign or everything, single mails too. Asked twice it is no error.
    Raises NotFound.
    """
    end_stopping_of_dead(inst.database, inst.installation_id, inst.settings.dispatcher, now)
    with inst.database.begin() as connection:
        chosen = _chosen(scope) or mail_jobs_to_stop(connection, inst.installation_id, scope.campaign)
    done: list[Operated] = []
    for number in chosen:
        with inst.database.begin() as connection:
            done += stop_mail_job(
                connection, inst.installation_id, number, signs_now(connection, inst.settings.dispatcher, now)
            )
            crash_point("stop_asked")
        crash_point("stop_asked_committed")
    with inst.database.begin() as connection:
        # After the mail jobs: what they have deferred by now rests too, and what comes later when its time has come.
        rest_loose_mails(
            connection,
            inst.installation_id,
            LooseMailState.PAUSED,
            mail_job_id=scope.mail_job,
            campaign_id=campaign_number(connection, inst.installation_id, scope.campaign),
        )
        crash_point("loose_mails_stopped")
    return done


def restart(inst: Installation, scope: Scope, *, now: datetime | None = None) -> list[Operated]:
    """Let what is meant go on where it was stopped; a mail job that is named, also what of it has FAILED.

    A campaign's or all failed mail jobs are not restarted with the stopped ones: they failed for a reason each, and
    may be of long ago. Loose mails go on that a stop let rest. What is too old for every mailcaster is FAILED, and
    expires (spec 5.4). Raises NotFound.
    """
    end_stopping_of_dead(inst.database, inst.installation_id, inst.settings.dispatcher, now)
    hours = [each.job_recovery_expire_in_hours for each in inst.settings.mailcasters]
    with inst.database.begin() as connection:
        chosen = _chosen(scope) or mail_jobs_to_restart(connection, inst.installation_id, scope.campaign)
    done: list[Operated] = []
    for number in chosen:
        with inst.database.begin() as connection:
            done += restart_mail_job(
                connection,
                inst.installation_id,
                number,
                signs_now(connection, inst.settings.dispatcher, now),
                expire_in_hours=max(hours, default=None),
                failed_too=scope.mail_job is not None,
            )
            crash_point("restart_asked")
        crash_point("restart_asked_committed")
    with inst.database.begin() as connection:
        wake_loose_mails(
            connection,
            inst.installation_id,
            mail_job_id=scope.mail_job,
            campaign_id=campaign_number(connection, inst.installation_id, scope.campaign),
        )
    return done


def wait_until_stopped(inst: Installation, done: Collection[Operated], *, timeout_s: float) -> list[Operated]:
    """Wait until mailcasters have let go of what a stop left STOPPING; `done` with the states that were reached.

    Those that are STOPPING still after `timeout_s` seconds say so: their mailcaster is busy with a slow relay, or
    suspended, in which case they are stopped at the end of the hang time.
    """
    until = time.monotonic() + timeout_s
    waited = list(done)
    while any(each.entered is MailJobState.STOPPING for each in waited) and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
        end_stopping_of_dead_now(inst)
        waited = _as_they_are_now(inst, waited, {MailJobState.STOPPING})
    # A parent's last child may have ended meanwhile, and the parent with it.
    return _as_they_are_now(inst, waited, {MailJobState.STOPPING, MailJobState.STOPPED_R})


def end_stopping_of_dead_now(inst: Installation) -> list[Operated]:
    """Let go of STOPPING mail jobs in the place of mailcasters that have died since. Cheap when there is none.

    For whoever looks at the queue now and then, so that nobody must ask for a stop twice.
    """
    return end_stopping_of_dead(inst.database, inst.installation_id, inst.settings.dispatcher)


def _as_they_are_now(
    inst: Installation, done: Collection[Operated], looked_at: Collection[MailJobState]
) -> list[Operated]:
    """`done`, with those that were in one of these states looked at again."""
    found = []
    with inst.database.begin() as connection:
        for each in done:
            state = each.entered
            if state in looked_at:
                state = mail_job(connection, each.mail_job_id).state
            found.append(each if state is each.entered else replace(each, entered=state, note=""))
    return found


def _chosen(scope: Scope) -> list[int]:
    return [] if scope.mail_job is None else [scope.mail_job]

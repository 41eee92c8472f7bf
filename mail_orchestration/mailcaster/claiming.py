"""What a mailcaster takes next: of the installation whose turn it is, the first in its search order (spec 4.3, 6.2)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import claim_next
from mail_orchestration.dispatch.loose_mails import has_due_loose_mails
from mail_orchestration.dispatch.mail_jobs import waiting_work
from mail_orchestration.dispatch.send_window import send_window
from mail_orchestration.dispatch.stopping import end_stopping_of_dead
from mail_orchestration.dispatch.turns import Work
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.serving import Served
from mail_orchestration.single_mailer.worker import KINDS, KINDS_FOR_OTHERS


def has_work(
    inst: Installation, mailcaster: str, *, now: datetime | None = None, own_loose_mails: bool = True
) -> bool:
    """True when there is work that this mailcaster would take, now by the database's clock or at `now`.

    Without `own_loose_mails` those of its own installation do not count, for which there is a single mailer. Outside an
    installation's send window there is none of it. Cheap, and locks nothing. Raises BadSettings when it
    serves an installation that the database does not know.
    """
    parameters = inst.settings.mailcaster(mailcaster)
    with inst.database.begin() as connection:
        now = now or database_now(connection)
    with_mail_jobs = Served(inst, parameters.installations, Work.MAIL_JOB).in_turn(now)
    with_loose_mails = Served(inst, parameters.installations, Work.LOOSE_MAIL).in_turn(now)
    with inst.database.begin() as connection:
        return any(
            send_window(each.settings).is_open_at(now)
            and waiting_work(
                connection,
                parameters,
                now,
                each.settings.dispatcher.hang_after_seconds,
                installation_id=each.installation_id,
            )
            for each in with_mail_jobs
        ) or any(
            send_window(each.settings).is_open_at(now)
            and has_due_loose_mails(
                connection, each.installation_id, KINDS if each is inst else KINDS_FOR_OTHERS, now
            )
            for each in with_loose_mails
            if own_loose_mails or each is not inst
        )


def claim_in_turn(
    served: Served, parameters: MailcasterParameters, clock: Callable[[], datetime]
) -> tuple[Installation, Claim] | None:
    """Take the first work of the installation whose turn it is, or of the next that has any; None when none has.

    Before that, what was to stop there and whose mailcaster is dead is let go of. Raises BadSettings like `has_work`.
    """
    for inst in served.in_turn(clock()):
        if not send_window(inst.settings).is_open_at(clock()):
            continue
        dispatcher = inst.settings.dispatcher
        end_stopping_of_dead(inst.database, inst.installation_id, dispatcher, clock())
        claim = claim_next(
            inst.database,
            inst.installation_id,
            parameters,
            now=clock(),
            hang_after_s=dispatcher.hang_after_seconds,
        )
        if claim is not None:
            served.note_turn(inst.installation_id)
            return inst, claim
    return None

"""How a piece of work ends, and its parent with it.

Order of locks, for whoever needs both: the parent first, then the child. Claims lock a parent only when it is
free, recovery locks a child only when it is free, so neither can be part of a deadlock.
"""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy import Connection

from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.failure_policy import canary_verdict
from mail_orchestration.dispatch.mail_jobs import transition
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState

_log = logging.getLogger(__name__)


def end_claim(
    connection: Connection, claim: Claim, enters: MailJobState, *, reason: str, now: datetime
) -> MailJobState:
    """RUNNING → `enters`, and settle the parent. STOPPING too → FINISHED, but → STOPPED_R instead of FAILED.

    One that was restarted while STOPPING becomes RECOVERING instead of STOPPED_R.

    Returns the state that the mail job is in now. Needs a transaction of the caller. Raises ClaimLost.
    """
    if claim.parent_id is not None:
        connection.execute(STATEMENTS["lock_parent"], {"parent_id": claim.parent_id})
    state = connection.execute(
        STATEMENTS["end_running"],
        {
            "mail_job_id": claim.mail_job_id,
            "fence": claim.fence,
            "enters": enters.value,
            "reason": reason,
            "now": now,
        },
    ).scalar_one_or_none()
    if state is None:
        raise claim.lost()
    if claim.parent_id is not None:
        crash_point("finish_child_ended")
        settle_parent(connection, claim.parent_id, now)
    crash_point("finish_settled")
    return MailJobState(state)


def settle_parent(connection: Connection, parent_id: int, now: datetime) -> MailJobState | None:
    """End a parent whose messages are all in children that have ended (spec 3.2, 3.3), or judge its canary.

    The caller has it locked. Returns P_FINISHED, P_FAILED or P_PARTIAL_FINISHED, STOPPED_R when the canary
    fared badly, or None when it goes on.
    """
    if (judged := _judge_canary(connection, parent_id, now)) is not None:
        return judged
    state = connection.execute(
        STATEMENTS["settle_parent"], {"parent_id": parent_id, "now": now}
    ).scalar_one_or_none()
    return None if state is None else MailJobState(state)


def _judge_canary(connection: Connection, parent_id: int, now: datetime) -> MailJobState | None:
    """Once its first messages have ended, a parent goes on, or is stopped until the operator restarts it."""
    canary = connection.execute(STATEMENTS["find_canary"], {"parent_id": parent_id}).one_or_none()
    if canary is None:
        return None
    connection.execute(STATEMENTS["end_canary"], {"parent_id": parent_id})
    why = canary_verdict(canary.messages, canary.rejected, float(canary.most_rejected), canary.failure)
    if not why:
        return None
    _log.warning("mail job %d is stopped: %s", parent_id, why)
    return transition(connection, parent_id, MailJobState.P_ASSIGNING, MailJobState.STOPPED_R, why, now)


def bring_figures_up_to_date(connection: Connection, mail_job_id: int) -> None:
    """Set a mail job's figures to its results. The caller has changed its row in this transaction, and so locked it.

    A killed holder's last progress figures are of some messages before its last result; one that lives knows nothing of
    retries whose results were written beside it.
    """
    connection.execute(STATEMENTS["count_recorded_progress"], {"mail_job_id": mail_job_id})

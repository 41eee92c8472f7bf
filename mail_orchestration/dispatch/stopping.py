"""The operator stops mail jobs, and nothing is lost or repeated by it (spec 3.2, 5.6).

A holder that lives lets go of a STOPPING mail job itself, with every message in flight recorded. In a dead one's
place that is done here: at once when the stop is asked for, or by `end_stopping_of_dead` when it is found later.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, assert_never

from sqlalchemy import Connection, Row

from mail_orchestration.dispatch.campaigns import campaign_number
from mail_orchestration.dispatch.operating import (
    Operated,
    Signs,
    ask,
    enter,
    is_dead,
    let_go_for_dead,
    lock_children,
    lock_chosen,
    operated,
    settled,
    signs_now,
)
from mail_orchestration.dispatch.settling import settle_parent
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.fleet_settings import DispatcherSettings
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobKind, MailJobState

_S = MailJobState
_STOPPED = "stopped by the operator"

_LIVE_CHILD = (_S.RUNNING, _S.STOPPING, _S.RECOVERING)


def mail_jobs_to_stop(connection: Connection, installation_id: int, campaign: str | None = None) -> list[int]:
    """What has neither ended nor is stopped, of one campaign or of all, as numbers for `stop_mail_job`.

    Raises NotFound when nothing was ever released of a campaign by that name.
    """
    campaign_id = campaign_number(connection, installation_id, campaign)
    binds = {"installation_id": installation_id, "campaign_id": campaign_id}
    return list(connection.execute(STATEMENTS["find_mail_jobs_to_stop"], binds).scalars())


def stop_mail_job(
    connection: Connection, installation_id: int, mail_job_id: int, signs: Signs
) -> list[Operated]:
    """Stop a mail job: a parent with its children, a child alone, or the last of a recovery chain in its place.

    Returns what became of it, then of each child that was changed or is still letting go. Stopped before, or ended, it
    says so. Raises NotFound.
    """
    parent, target = lock_chosen(connection, installation_id, mail_job_id)
    if target.kind != MailJobKind.PARENT:
        done = _stop(connection, target, signs)
        if parent is not None:
            settle_parent(connection, parent.mail_job_id, signs.now)
        return [done]
    children = lock_children(connection, target.mail_job_id)
    done = _stop(connection, target, signs)
    stopped = [_stop(connection, child, signs) for child in children if child.state in _LIVE_CHILD]
    return [settled(connection, done, signs), *stopped]


def end_stopping_of_dead(
    database: Database,
    installation_id: int,
    dispatcher: DispatcherSettings,
    now: datetime | None = None,
) -> list[Operated]:
    """Let go of STOPPING mail jobs of an installation in the place of holders that are dead.

    They are dead at `now`, or at this moment by the database's clock. Any number may call it at once, as often as they
    like: with nothing to do it is one look by an index.
    """
    with database.begin() as connection:
        signs = signs_now(connection, dispatcher, now)
        binds = {"silent_before": signs.silent_before, "installation_id": installation_id}
        silent = connection.execute(STATEMENTS["find_silent_stopping"], binds).all()
    ended = []
    for row in silent:
        with database.begin() as connection:
            parent, target = lock_chosen(connection, row.installation_id, row.mail_job_id)
            if target.state != _S.STOPPING or not is_dead(connection, target, signs):
                continue
            ended.append(
                operated(target, let_go_for_dead(connection, target, signs), "its mailcaster was dead")
            )
            if parent is not None:
                settle_parent(connection, parent.mail_job_id, signs.now)
            crash_point("dead_let_go")
    return ended


def _stop(connection: Connection, row: Row[Any], signs: Signs) -> Operated:
    """Stop one locked mail job, without its children."""
    state = _S(row.state)
    match state:
        case _S.QUEUING | _S.INTERRUPTED:
            ask(connection, row, _S.STOPPED_Q)
            return operated(row, state, "it becomes STOPPED_Q instead of being queued")
        case _S.QUEUED | _S.P_QUEUED:
            return operated(row, enter(connection, row, _S.STOPPED_Q, _STOPPED, signs))
        case _S.P_ASSIGNING | _S.P_ASSIGNED | _S.RECOVERING:
            return operated(row, enter(connection, row, _S.STOPPED_R, _STOPPED, signs))
        case _S.RUNNING:
            enter(connection, row, _S.STOPPING, _STOPPED, signs)
        case _S.STOPPING:
            ask(connection, row, None)
        case _S.STOPPED_R | _S.STOPPED_Q:
            return operated(row, state, "it is stopped already")
        case (
            _S.STOPPED
            | _S.RECOVERED
            | _S.FINISHED
            | _S.FAILED
            | _S.P_FINISHED
            | _S.P_FAILED
            | _S.P_PARTIAL_FINISHED
        ):
            return operated(row, state, "it has ended")
        case _:
            assert_never(state)
    if is_dead(connection, row, signs):
        return operated(row, let_go_for_dead(connection, row, signs), "its mailcaster was dead")
    return operated(row, _S.STOPPING, "its mailcaster is letting go")

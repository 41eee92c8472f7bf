"""The operator lets stopped and failed mail jobs go on (spec 3.2, 5.3, 5.6).

What was RUNNING becomes RECOVERING, and the next mailcaster makes a new mail job of what has no result, as it does of
one that hangs. A mail job that its mailcaster has not let go of yet is told to go on when it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

from sqlalchemy import Connection, Row

from mail_orchestration.dispatch.campaigns import campaign_number
from mail_orchestration.dispatch.operating import (
    Operated,
    Signs,
    ask,
    enter,
    has_unsent,
    is_dead,
    let_go_for_dead,
    lock_children,
    lock_chosen,
    operated,
    settled,
)
from mail_orchestration.dispatch.recovery import expire, too_old
from mail_orchestration.dispatch.retention import are_messages_kept
from mail_orchestration.dispatch.settling import settle_parent
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobKind, MailJobState

_S = MailJobState
_RESTARTED = "restarted by the operator"


def mail_jobs_to_restart(
    connection: Connection, installation_id: int, campaign: str | None = None
) -> list[int]:
    """What is stopped or is to be, of one campaign or of all, as numbers for `restart_mail_job`; NotFound as above."""
    campaign_id = campaign_number(connection, installation_id, campaign)
    binds = {"installation_id": installation_id, "campaign_id": campaign_id}
    return list(connection.execute(STATEMENTS["find_mail_jobs_to_restart"], binds).scalars())


def restart_mail_job(
    connection: Connection,
    installation_id: int,
    mail_job_id: int,
    signs: Signs,
    *,
    expire_in_hours: float | None,
    failed_too: bool,
) -> list[Operated]:
    """Let a stopped mail job go on, and with `failed_too` what of it is FAILED; what was named to `stop_mail_job`.

    What is too old for every mailcaster (spec 5.4), queued more than `expire_in_hours` ago, is FAILED instead and what
    it had not sent expires; None: that is left to mailcasters. Returns as `stop_mail_job` does. Raises NotFound.
    """
    restart = _Restart(connection, signs, expire_in_hours, failed_too)
    connection.execute(
        STATEMENTS["free_held_mails"], {"mail_job_id": mail_job_id, "installation_id": installation_id}
    )
    parent, target = lock_chosen(connection, installation_id, mail_job_id)
    if target.kind == MailJobKind.PARENT:
        return restart.parent(target, lock_children(connection, target.mail_job_id))
    if parent is not None:
        return restart.child(parent, target)
    return [restart.one(target)]


@dataclass(frozen=True, slots=True)
class _Restart:
    """One restart: what its steps have in common."""

    connection: Connection
    signs: Signs
    expire_in_hours: float | None
    failed_too: bool

    def parent(self, parent: Row[Any], children: list[Row[Any]]) -> list[Operated]:
        """A parent and those of its children that are stopped or failed."""
        state = _S(parent.state)
        restartable = [child for child in children if self._is_restartable(child)]
        match state:
            case _S.STOPPED_R:
                goes_on = _S.P_ASSIGNING if parent.next_message <= parent.last_message else _S.P_ASSIGNED
                done = operated(parent, enter(self.connection, parent, goes_on, "", self.signs))
            case _S.P_FAILED | _S.P_PARTIAL_FINISHED if restartable:
                self._forget_report(parent)
                done = operated(parent, enter(self.connection, parent, _S.P_ASSIGNED, "", self.signs))
            case _S.P_ASSIGNING | _S.P_ASSIGNED if restartable:
                done = operated(parent, state, "its children are restarted")
            case _:
                return [self.one(parent)]
        restarted = [self.one(child) for child in restartable]
        return [settled(self.connection, done, self.signs), *restarted]

    def child(self, parent: Row[Any], child: Row[Any]) -> list[Operated]:
        """A child alone, where its parent is not stopped: none of a stopped parent's may be live."""
        if not self._is_restartable(child):
            return [self.one(child)]
        if parent.state == _S.STOPPED_R:
            note = f"its parent, mail job {parent.mail_job_id}, is stopped: restart that one"
            return [operated(child, _S(child.state), note)]
        if parent.state in (_S.P_FAILED, _S.P_PARTIAL_FINISHED):
            self._forget_report(parent)
            enter(self.connection, parent, _S.P_ASSIGNED, "", self.signs)
        done = self.one(child)
        settle_parent(self.connection, parent.mail_job_id, self.signs.now)
        return [done]

    def one(self, row: Row[Any]) -> Operated:
        """One locked mail job, without its children."""
        state = _S(row.state)
        match state:
            case _S.QUEUING | _S.INTERRUPTED:
                ask(self.connection, row, None)
                known = "release it again" if state is _S.INTERRUPTED else "it is being assembled"
                return operated(
                    row, state, known if row.asked_state is None else "it will be queued after all"
                )
            case _S.STOPPED_Q:
                binds = {"mail_job_id": row.mail_job_id, "now": self.signs.now}
                queued = self.connection.execute(STATEMENTS["queue_again"], binds).scalar_one()
                return operated(row, _S(queued))
            case _S.STOPPING:
                ask(self.connection, row, _S.RECOVERING)
                if not is_dead(self.connection, row, self.signs):
                    return operated(row, state, "it goes on when its mailcaster has let go")
                entered = let_go_for_dead(self.connection, row, self.signs)
                return self._unless_too_old(row) if entered is _S.RECOVERING else operated(row, entered)
            case _S.STOPPED_R:
                return self._recover(row)
            case _S.FAILED if row.first_message is None:
                return operated(row, state, "it failed before it was queued: release the campaign again")
            case _S.FAILED if not has_unsent(self.connection, row):
                kept = are_messages_kept(self.connection, row.release_id)
                note = "every message of it has a result" if kept else "its messages are past their retention"
                return operated(row, state, note)
            case _S.FAILED:
                if not self.failed_too:
                    return operated(row, state, "it failed: restart it by its number")
                if row.parent_id is None:
                    self._forget_report(row)
                return self._recover(row)
            case _S.QUEUED | _S.P_QUEUED | _S.P_ASSIGNING | _S.P_ASSIGNED | _S.RUNNING | _S.RECOVERING:
                hangs = state is _S.RUNNING and row.heartbeat_at < self.signs.hung_before
                return operated(row, state, "it hangs: stop it first" if hangs else "it is not stopped")
            case _S.P_FAILED | _S.P_PARTIAL_FINISHED:
                return operated(row, state, "nothing of it can be sent any more")
            case _S.STOPPED | _S.RECOVERED | _S.FINISHED | _S.P_FINISHED:
                return operated(row, state, "it has ended")
            case _:
                assert_never(state)

    def _is_restartable(self, child: Row[Any]) -> bool:
        match _S(child.state):
            case _S.STOPPED_R | _S.STOPPING:
                return True
            case _S.FAILED:
                return self.failed_too and has_unsent(self.connection, child)
            case _:
                return False

    def _recover(self, row: Row[Any]) -> Operated:
        enter(self.connection, row, _S.RECOVERING, _RESTARTED, self.signs)
        return self._unless_too_old(row)

    def _unless_too_old(self, row: Row[Any]) -> Operated:
        """RECOVERING, or FAILED where no mailcaster would recover it (spec 5.4)."""
        if (
            self.expire_in_hours is None
            or (reason := too_old(row, self.signs.now, self.expire_in_hours)) is None
        ):
            return operated(row, _S.RECOVERING)
        expired = expire(self.connection, row.mail_job_id, reason, self.signs.now)
        return operated(row, _S.FAILED, f"{reason}; {expired} messages expired")

    def _forget_report(self, row: Row[Any]) -> None:
        self.connection.execute(STATEMENTS["forget_report"], {"release_id": row.release_id})

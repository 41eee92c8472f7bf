"""What a stop and a restart by the operator have in common (spec 3.2, 5.6): locks, signs of death, and what is said.

Each changes one mail job, a parent with its children, in the caller's transaction. Locks are waited for, the
parent's first: whatever a claim or a recovery has in hand in this moment has either happened when the lock is got,
and is stopped, or comes too late and finds nothing to take.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row

from mail_orchestration.dispatch.mail_jobs import transition
from mail_orchestration.dispatch.recovery import holder_is_gone
from mail_orchestration.dispatch.repeating import count_repeatable
from mail_orchestration.dispatch.retention import are_messages_kept
from mail_orchestration.dispatch.settling import bring_figures_up_to_date, settle_parent
from mail_orchestration.dispatch.unsent import count_unsent
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.fleet_settings import DispatcherSettings
from mail_orchestration.kernel.model import MessageRange
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState

_log = logging.getLogger(__name__)
_S = MailJobState

_BEATS_MISSED = 2
"""A holder whose session is gone may be opening another one: it is given the time of so many heartbeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """The moment, and what a holder's silence means then."""

    now: datetime
    silent_before: datetime
    """A holder whose last heartbeat is older is dead if its session is gone."""
    hung_before: datetime
    """A holder whose last heartbeat is older counts as dead (spec 5.2)."""

    @classmethod
    def of(cls, dispatcher: DispatcherSettings, now: datetime) -> Signs:
        """By the dispatcher's heartbeat and hang time."""
        hang_after_s = dispatcher.hang_after_seconds
        silent_s = min(_BEATS_MISSED * dispatcher.heartbeat_seconds, hang_after_s)
        return cls(
            now=now,
            silent_before=now - timedelta(seconds=silent_s),
            hung_before=now - timedelta(seconds=hang_after_s),
        )


def signs_now(connection: Connection, dispatcher: DispatcherSettings, now: datetime | None = None) -> Signs:
    """`Signs` at `now`, or at this moment by the database's clock, which tells heartbeats too."""
    return Signs.of(dispatcher, now or database_now(connection))


@dataclass(frozen=True, slots=True, kw_only=True)
class Operated:
    """What a stop or a restart did to one mail job."""

    mail_job_id: int
    parent_id: int | None
    left: MailJobState
    entered: MailJobState
    """The same as `left` when nothing was changed."""
    note: str = ""
    """Why nothing was changed, or what comes next."""

    @property
    def is_changed(self) -> bool:
        """The mail job is in another state than before."""
        return self.left is not self.entered


def lock_chosen(
    connection: Connection, installation_id: int, mail_job_id: int
) -> tuple[Row[Any] | None, Row[Any]]:
    """The mail job that stands for this number now, locked, and before it its parent, if it has one."""
    while True:
        binds = {"mail_job_id": mail_job_id, "installation_id": installation_id}
        found = connection.execute(STATEMENTS["find_last_of_chain"], binds).one_or_none()
        if found is None:
            raise NotFound(f"there is no mail job {mail_job_id}")
        parent = None if found.parent_id is None else _lock(connection, found.parent_id)
        target = _lock(connection, found.mail_job_id)
        if target.state != _S.RECOVERED:
            return parent, target
        # Recovered while its lock was waited for: the next look sees its successor.


def _lock(connection: Connection, mail_job_id: int) -> Row[Any]:
    return connection.execute(STATEMENTS["lock_to_operate"], {"mail_job_id": mail_job_id}).one()


def lock_children(connection: Connection, parent_id: int) -> list[Row[Any]]:
    """The children that have not finished, locked. The caller has the parent locked, so claims make no more."""
    binds = {"parent_id": parent_id}
    before: list[int] | None = None
    while True:
        rows = connection.execute(STATEMENTS["lock_children_to_operate"], binds).all()
        numbers = [row.mail_job_id for row in rows]
        if numbers == before:
            return list(rows)
        # A recovery that was waited for has made a successor, which only a new look can see.
        before = numbers


def is_dead(connection: Connection, row: Row[Any], signs: Signs) -> bool:
    """Nobody will let go of it: its holder's session is gone and was not opened anew, or the holder hangs."""
    if row.heartbeat_at < signs.hung_before:
        return True
    return row.heartbeat_at < signs.silent_before and holder_is_gone(connection, row.mail_job_id)


def let_go_for_dead(connection: Connection, row: Row[Any], signs: Signs) -> MailJobState:
    """STOPPING → STOPPED_R, RECOVERING if that was asked for, or FINISHED where every message has a result."""
    entered = _S(
        connection.execute(
            STATEMENTS["end_stopping_of_dead"],
            {
                "mail_job_id": row.mail_job_id,
                "is_complete": not has_unsent(connection, row),
                "now": signs.now,
            },
        ).scalar_one()
    )
    bring_figures_up_to_date(connection, row.mail_job_id)
    _log.warning("mail job %s is %s: its mailcaster was dead when it was to stop", row.mail_job_id, entered)
    return entered


def has_unsent(connection: Connection, row: Row[Any]) -> bool:
    """Whether something is left to do for a mailcaster: a message without a result, or an uncertain one.

    What retention has dropped is not. Whether an uncertain one will be sent again is the campaign's choice, which only
    a mailcaster reads: it ends at once if not.
    """
    if not are_messages_kept(connection, row.release_id):
        return False
    messages = MessageRange(
        release_id=row.release_id,
        released_on=row.released_on,
        first_message=row.first_message,
        last_message=row.last_message,
    )
    return bool(count_unsent(connection, messages) or count_repeatable(connection, messages))


def enter(
    connection: Connection, row: Row[Any], enters: MailJobState, reason: str, signs: Signs
) -> MailJobState:
    return transition(connection, row.mail_job_id, _S(row.state), enters, reason, signs.now)


def ask(connection: Connection, row: Row[Any], asked: MailJobState | None) -> None:
    binds = {"mail_job_id": row.mail_job_id, "state": row.state, "asked": asked}
    connection.execute(STATEMENTS["ask_for_state"], binds).one()


def operated(row: Row[Any], entered: MailJobState, note: str = "") -> Operated:
    return Operated(
        mail_job_id=row.mail_job_id,
        parent_id=row.parent_id,
        left=_S(row.state),
        entered=entered,
        note=note,
    )


def settled(connection: Connection, parent: Operated, signs: Signs) -> Operated:
    """The parent after its children: it ends when nothing of it is left to be done."""
    ended = settle_parent(connection, parent.mail_job_id, signs.now)
    if ended is None:
        return parent
    if ended is _S.STOPPED_R:
        return replace(parent, entered=ended, note="its canary fared badly: restart it once more to go on")
    return replace(parent, entered=ended, note="all of its children have ended")

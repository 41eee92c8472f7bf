"""Holding a claim while its messages are sent, and ending it.

The hold is a session advisory lock on a connection of its own: the server drops it with the session, whatever
became of the process. It tells recovery that the session is gone; what guards the work is the fence (see
`recovery`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, TextClause
from sqlalchemy.exc import DBAPIError

from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.holds import is_held
from mail_orchestration.dispatch.repeating import count_repeatable
from mail_orchestration.dispatch.settling import bring_figures_up_to_date, end_claim
from mail_orchestration.dispatch.unsent import count_unsent
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import StateConflict
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState

_COUNTED = (Outcome.ACCEPTED, Outcome.DEFERRED, Outcome.REJECTED, Outcome.UNCERTAIN, Outcome.STOPPED)


class HeldClaim:
    """A claim in hand: `with HeldClaim(database, claim) as held: …`. Its methods may be called from any
    thread.

    Every method raises ClaimLost once the work was given to somebody else; then nothing more may be sent.
    Leaving the block lets go of the lock and nothing else: a mail job that was not ended before hangs, and is
    recovered. DatabaseUnavailable loses nothing: the same call may be made again, and takes the lock anew.
    """

    def __init__(self, database: Database, claim: Claim) -> None:
        self.claim = claim
        self._database = database
        self._turn = threading.Lock()
        self._session = ExitStack()
        self._connection: Connection | None = None
        self._may_be_retried = False
        self._beaten_at = claim.taken_at

    def __enter__(self) -> Self:
        with self._turn, self._database.translate_errors():
            try:
                self._held_connection()
            except BaseException:
                self._let_go()
                raise
        try:
            # Between its claim and this lock nothing told that it lives: it may have been fenced out meanwhile,
            # and then not one message may leave.
            self.is_asked_to_stop()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._turn:
            self._let_go()

    def heartbeat(self, now: datetime) -> bool:
        """Say that this mailcaster lives (spec 5.2). True when it was asked to stop (STOPPING)."""
        began = steady_seconds()
        state = self._write(STATEMENTS["beat_heart"], {"now": now})
        self._beaten_at = began
        return state is MailJobState.STOPPING

    def is_asked_to_stop(self) -> bool:
        """Whether a stop was asked for (STOPPING). Cheaper than a heartbeat, and none."""
        return self._write(STATEMENTS["look_at_claim"], {}) is MailJobState.STOPPING

    def is_sending_held(self) -> bool:
        """Whether all sending is held, by the operator or since the database was restored (spec 5.8)."""
        with self._turn, self._database.translate_errors():
            try:
                return is_held(self._held_connection(), self.claim.installation_id)
            except DBAPIError:
                self._let_go()
                raise

    def is_leased(self, hang_after_s: float) -> bool:
        """Whether nobody can have recovered the mail job yet, by this host's own clock; asks no database.

        For the moment before a message leaves: a process that was suspended past the hang time wakes here.
        """
        return steady_seconds() - self._beaten_at < hang_after_s

    def progress(self, counts: Mapping[Outcome, int]) -> bool:
        """Set the figures that displays show to these results so far. True when it was asked to stop."""
        self._may_be_retried |= counts.get(Outcome.DEFERRED, 0) > 0
        figures = {outcome.value: counts.get(outcome, 0) for outcome in _COUNTED}
        return self._write(STATEMENTS["record_progress"], figures) is MailJobState.STOPPING

    def finish(self, now: datetime, *, most_attempts: int = 1) -> MailJobState:
        """RUNNING or STOPPING → FINISHED, and settle the parent.

        Raises StateConflict when messages of the range have no result, or an uncertain one after fewer than
        `most_attempts` attempts.
        """
        with self._database.begin() as connection:
            # Results are only ever added, so what is complete now stays complete: no lock is needed to look.
            unsent = count_unsent(connection, self.claim.messages)
            if unsent:
                raise StateConflict(
                    f"mail job {self.claim.mail_job_id} cannot finish: "
                    f"{unsent} of its messages have no result"
                )
            uncertain = count_repeatable(connection, self.claim.messages, most_attempts)
            if uncertain:
                raise StateConflict(
                    f"mail job {self.claim.mail_job_id} cannot finish: "
                    f"{uncertain} of its messages are uncertain and to be sent again"
                )
            return self._end(connection, MailJobState.FINISHED, "", now)

    def fail(self, reason: str, now: datetime) -> MailJobState:
        """RUNNING → FAILED (spec 3.7), and settle the parent; STOPPED_R when a stop was asked for
        meanwhile.
        """
        with self._database.begin() as connection:
            return self._end(connection, MailJobState.FAILED, reason, now)

    def let_go_stopped(self, now: datetime) -> MailJobState:
        """STOPPING → STOPPED_R, or → RECOVERING when it was restarted since: nothing more is sent.

        Raises ClaimLost too when no stop was asked for.
        """
        own = {"mail_job_id": self.claim.mail_job_id, "fence": self.claim.fence}
        with self._database.begin() as connection:
            state = connection.execute(STATEMENTS["end_stopping"], {**own, "now": now}).scalar_one_or_none()
            if state is None:
                raise self.claim.lost()
            self._count_retries(connection)
        return MailJobState(state)

    def hand_back(self, write_late: Callable[[Connection, int], None] | None = None) -> None:
        """Go without having finished, in good order: the mail job hangs at once and the next one recovers it.

        For the end of a shift or of the process; after the block too. Where `automatic_mail_job_recovery` is
        off the operator restarts it. `write_late` is called in the same transaction, with the fence that holds from
        then on, for what has still to be written.
        """
        own = {"mail_job_id": self.claim.mail_job_id, "fence": self.claim.fence}
        with self._database.begin() as connection:
            fence = connection.execute(STATEMENTS["hand_back_mail_job"], own).scalar_one_or_none()
            if fence is None:
                raise self.claim.lost()
            if write_late is not None:
                write_late(connection, fence)

    def _end(self, connection: Connection, enters: MailJobState, reason: str, now: datetime) -> MailJobState:
        state = end_claim(connection, self.claim, enters, reason=reason, now=now)
        self._count_retries(connection)
        return state

    def _count_retries(self, connection: Connection) -> None:
        """What was deferred may have been retried by another worker meanwhile: that is in no figure of ours."""
        if self._may_be_retried:
            bring_figures_up_to_date(connection, self.claim.mail_job_id)

    def _write(self, statement: TextClause, binds: Mapping[str, Any]) -> MailJobState:
        own = {"mail_job_id": self.claim.mail_job_id, "fence": self.claim.fence}
        with self._turn, self._database.translate_errors():
            try:
                state = self._held_connection().execute(statement, {**own, **binds}).scalar_one_or_none()
            except DBAPIError:
                self._let_go()
                raise
        if state is None:
            raise self.claim.lost()
        return MailJobState(state)

    def _held_connection(self) -> Connection:
        if self._connection is None:
            connection = self._session.enter_context(self._database.reserved())
            # Waits for a recovery's short transaction at most, after which the fence tells that the claim is lost.
            connection.execute(STATEMENTS["hold_mail_job"], {"mail_job_id": self.claim.mail_job_id})
            crash_point("claim_held")
            self._connection = connection
        return self._connection

    def _let_go(self) -> None:
        self._connection = None
        session, self._session = self._session, ExitStack()
        session.close()

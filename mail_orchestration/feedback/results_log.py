"""The results log: a result is durable before its connection goes on to the next message (spec 5.1).

Many connections share one write. While one flush is under way the results of the next gather; a flush is one
statement, one round trip and one commit, whatever it holds. It says under which fence the mail job is held,
and writes nothing when that no longer holds (spec 5.5).

A flush that holds a deferred result or a hard bounce takes another statement, which makes the loose mail of the next
attempt, or the suppression, in the same commit (spec 6.4). All others do not pay for that.

The event loop drives the connection itself: a writer thread cost 12 to 23 µs of CPU for a result instead of 8
to 14. BEGIN, COPY and COMMIT, four round trips, cost 16 to 45 µs; naming the day's partition instead of the
parent table gained nothing that could be told from noise. `benchmarks/results_log.py` measures what was kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from datetime import date
from types import TracebackType
from typing import Self, cast

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql

from mail_orchestration.feedback.result_rows import follow_up_columns, needs_follow_up, result_columns
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import ClaimLost
from mail_orchestration.kernel.fleet_settings import DispatcherSettings
from mail_orchestration.kernel.statements import STATEMENTS

MAX_RESULTS_OF_A_FLUSH = 2000
"""More wait for the next one: a flush holds a lock on the mail job's row that heartbeats wait for."""

_PLAIN, _FOLLOWING_UP = b"append_results", b"append_results_and_follow_up"
_APPENDING = {
    _PLAIN: STATEMENTS["append_results"],
    _FOLLOWING_UP: STATEMENTS["append_results_and_follow_up"],
}
_log = logging.getLogger(__name__)


class ResultsLog:
    """Where the results of one claimed mail job become durable: egress' `ResultSink`.

    An asynchronous context manager with a connection of its own, for one event loop:

        async with ResultsLog(database, release_id=…, …) as log:
            await log.record(result)

    Its end writes what is still waiting. After a failure every result that waits, and every later one, raises
    the same: ClaimLost when the mail job is no longer held under the fence, DatabaseUnavailable when the
    database is gone. A result that raised may have been written all the same; one that resolved has been. What
    raised is `unwritten`, and can be written late, when the database is back.
    """

    def __init__(
        self,
        database: Database,
        *,
        release_id: int,
        released_on: date,
        mail_job_id: int,
        fence: int,
        dispatcher: DispatcherSettings | None = None,
    ) -> None:
        """`dispatcher` says how often a deferred message is tried, and when again."""
        dispatcher = dispatcher or DispatcherSettings()
        self.counts: Counter[Outcome] = Counter()
        """Durable results so far, less what they superseded."""
        self.flushes = 0
        """Commits so far."""
        self._database = database
        self._claim = f"mail job {mail_job_id} under fence {fence}"
        self._constants = {
            "mail_job_id": str(mail_job_id).encode(),
            "fence": str(fence).encode(),
            "release_id": str(release_id).encode(),
            "released_on": released_on.isoformat().encode(),
            "most_attempts": str(dispatcher.max_attempts).encode(),
            "retry_after_s": str(60 * dispatcher.retry_after_minutes).encode(),
        }
        self._gathering: list[tuple[DeliveryResult, asyncio.Future[None]]] = []
        self._in_flight: list[tuple[DeliveryResult, asyncio.Future[None]]] = []
        self._is_scheduled = self._may_follow_up = False
        self._failure: Exception | None = None
        self._drained: asyncio.Future[None] | None = None
        self.unwritten: list[DeliveryResult] = []
        """What a failure kept from being durable, as far as is known. Those whose flush was under way may be."""

    async def __aenter__(self) -> Self:
        """Connect. Raises DatabaseUnavailable."""
        self._loop = asyncio.get_running_loop()
        self._connection, self._pgconn, self._binds = await asyncio.to_thread(self._connect)
        self._socket = self._pgconn.socket
        self._loop.add_reader(self._socket, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what waits, whoever asks for it, then disconnect.

        Raises what kept it from being written, also in place of an error that it ends with.
        """
        try:
            if self._in_flight or self._gathering:
                self._drained = self._loop.create_future()
                await self._drained
        finally:
            self._disconnect()
        is_left_alone = error is not None and not isinstance(error, Exception)  # somebody cancels us, say
        if self._failure is not None and self._failure is not error and not is_left_alone:
            # Above any other trouble: who hears of that one alone would not write late what is unwritten.
            raise self._failure

    def record(self, result: DeliveryResult) -> asyncio.Future[None]:
        """Begin to write `result`; the future resolves when it is durable, or raises (see the class)."""
        if self._failure is not None:
            self.unwritten.append(result)
            raise self._failure
        future = self._loop.create_future()
        self._gathering.append((result, future))
        if result.outcome is not Outcome.ACCEPTED:
            self._may_follow_up = True
        if not self._in_flight:
            self._schedule_flush()
        crash_point("result_recorded")
        return future

    def write_late(self, connection: Connection, fence: int) -> None:
        """What is `unwritten`, without what is there nevertheless, in the caller's transaction.

        The mail job is held under `fence` in it, and not under the log's own any more: so the server writes no flush
        after this one has looked.
        """
        if not self.unwritten:
            return
        whose = ("released_on", "release_id", "mail_job_id")
        asked = {name: self._constants[name].decode() for name in whose}
        message_nos = [result.message_no for result in self.unwritten]
        found = connection.execute(STATEMENTS["find_recorded_results"], {**asked, "message_nos": message_nos})
        there = {(row.message_no, row.result_no) for row in found}
        late = [each for each in self.unwritten if (each.message_no, each.result_no) not in there]
        if late:
            columns = self._constants | result_columns(late) | follow_up_columns(late)
            columns["fence"] = str(fence).encode()
            binds = {name: columns[name].decode() for name in self._binds[_FOLLOWING_UP]}
            connection.execute(_APPENDING[_FOLLOWING_UP], binds)
        _log.info("%s: %d results are written late, %d were there", self._claim, len(late), len(there))

    def _schedule_flush(self) -> None:
        # Not at once: the other connections that this turn of the loop serves come along.
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        if self._failure is not None or self._in_flight or not self._gathering:
            return
        self._in_flight = self._gathering[:MAX_RESULTS_OF_A_FLUSH]
        self._gathering = self._gathering[MAX_RESULTS_OF_A_FLUSH:]
        crash_point("before_flush")
        results = [result for result, _ in self._in_flight]
        columns = self._constants | result_columns(results)
        statement = _PLAIN
        if self._may_follow_up:
            self._may_follow_up = bool(self._gathering)
            if any(map(needs_follow_up, results)):
                statement = _FOLLOWING_UP
                columns |= follow_up_columns(results)
        try:
            self._pgconn.send_query_prepared(statement, [columns[bind] for bind in self._binds[statement]])
            self._push()
        except psycopg.Error as error:
            self._fail(error)

    def _push(self) -> None:
        """Send what the socket takes now, and the rest when it takes more."""
        try:
            is_more = self._pgconn.flush()
        except psycopg.Error as error:
            self._fail(error)
            return
        if is_more:
            self._loop.add_writer(self._socket, self._push)
        else:
            self._loop.remove_writer(self._socket)
            crash_point("flush_sent")

    def _read(self) -> None:
        """The socket has something: an answer, a notice, or its end."""
        try:
            self._pgconn.consume_input()
            while not self._pgconn.is_busy():
                answer = self._pgconn.get_result()
                if answer is None:
                    break
                self._settle(answer)
        except (psycopg.Error, ClaimLost) as error:
            self._fail(error)
            return
        if self._in_flight:
            return
        if self._gathering:
            self._schedule_flush()
        elif self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _settle(self, answer: PGresult) -> None:
        if answer.status != ExecStatus.COMMAND_OK:
            raise error_from_result(answer)
        if not answer.command_tuples:
            raise ClaimLost(
                f"{self._claim} is no longer held by this mailcaster: its results are not written"
            )
        crash_point("flush_durable")
        durable, self._in_flight = self._in_flight, []
        self.flushes += 1
        self.counts.update([result.outcome for result, _ in durable])
        for result, future in durable:
            if result.supersedes is not None:
                self.counts[result.supersedes] -= 1
            if not future.done():
                future.set_result(None)

    def _fail(self, error: Exception) -> None:
        """End the log: everything that waits raises."""
        if self._failure is not None:
            return
        try:
            with self._database.translate_errors():
                raise error
        except Exception as translated:
            self._failure = translated
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        waiting = self._in_flight + self._gathering
        self._in_flight, self._gathering = [], []
        self.unwritten += [result for result, _ in waiting]
        _log.warning(
            "%s: %d results were not written: %s", self._claim, len(waiting), type(self._failure).__name__
        )
        for _, future in waiting:
            if not future.done():
                future.set_exception(self._failure)
                # Whoever was cancelled meanwhile asks no more, and asyncio need not complain of that.
                future.exception()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _connect(self) -> tuple[Connection, PGconn, dict[bytes, list[str]]]:
        with contextlib.ExitStack() as opening:
            connection = opening.enter_context(self._database.reserved())
            driver = cast("psycopg.Connection", connection.connection.driver_connection)
            # The connection may have served an earlier log: `info` lives as long as its session.
            if (binds := connection.info.get(_PLAIN)) is None:
                binds = connection.info[_PLAIN] = self._prepare(connection, driver.pgconn)
            self._resources = opening.pop_all()
        return connection, driver.pgconn, binds

    def _prepare(self, connection: Connection, pgconn: PGconn) -> dict[bytes, list[str]]:
        """Prepare both statements; under the name of each its binds in order."""
        connection.execute(STATEMENTS["require_durable_commits"])
        binds = {}
        for name, clause in _APPENDING.items():
            # SQLAlchemy turns :binds into $1 … $n, and says which is which.
            statement = clause.compile(
                dialect=postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
            )
            with self._database.translate_errors():
                answer = pgconn.prepare(name, statement.string.encode())
                if answer.status != ExecStatus.COMMAND_OK:
                    raise error_from_result(answer)
            binds[name] = list(statement.positiontup or ())
        return binds

    def _disconnect(self) -> None:
        if self._failure is None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        if self._failure is not None or self._in_flight:
            # In an unknown state: closed without a last word.
            self._connection.invalidate()
        self._resources.close()

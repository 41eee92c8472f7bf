"""Results of loose mails become durable in groups: while one write is under way, the next gathers (spec 5.1)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mail_orchestration.dispatch.loose_mails import ReservedMail
from mail_orchestration.dispatch.retry_policy import NextStep
from mail_orchestration.feedback.loose_results import LooseResult, record_loose_results
from mail_orchestration.kernel.attempts import DeliveryResult
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import DatabaseUnavailable
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.sending.when_back import when_back

_log = logging.getLogger(__name__)

MOST_OF_A_WRITE = 500
"""Results that are written in one transaction."""


class LooseLog:
    """Where attempts of one delivery are written, for one event loop."""

    def __init__(self, database: Database, on_written: Callable[[LooseResult, bool], None]) -> None:
        """`on_written` is told of each result once it is durable; False: its reservation was lost, and it is not."""
        self._database = database
        self._on_written = on_written
        self._gathering: list[tuple[LooseResult, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._unwritten: list[LooseResult] = []

    def record(
        self, mail: ReservedMail, result: DeliveryResult, step: NextStep, code: FailureCode | None = None
    ) -> asyncio.Future[None]:
        """Begin to write `result` and what follows from it; `code` groups those that enter FAILED.

        The future resolves when it is durable, or known to be somebody else's to write. After a
        failure, this one and all that wait raise it: DatabaseUnavailable, say. What raised can be written late.
        """
        written = _written(mail, result, step, code)
        if self._failure is not None:
            self._unwritten.append(written)
            raise self._failure
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gathering.append((written, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return future

    async def close(self) -> None:
        """Wait for what is being written; what the database's absence kept from it is written when that is back.

        Of a mail whose result was durable before, though the session was lost that should have said so, nothing is
        written twice: it is not SENDING any more.
        """
        if self._writing is not None:
            await self._writing
        if not self._unwritten or not isinstance(self._failure, DatabaseUnavailable):
            return
        try:
            written = await asyncio.to_thread(when_back, lambda: self._commit(self._unwritten))
        except DatabaseUnavailable as error:
            _log.warning("%d results of loose mails were not written: %s", len(self._unwritten), error)
            return
        _log.info("%d results of loose mails are written late", len(written))
        for result in self._unwritten:
            self._on_written(result, result.loose_mail_id in written)

    async def _write_all(self) -> None:
        try:
            while self._gathering:
                batch, self._gathering = (
                    self._gathering[:MOST_OF_A_WRITE],
                    self._gathering[MOST_OF_A_WRITE:],
                )
                await self._write(batch)
        finally:
            self._writing = None

    async def _write(self, batch: list[tuple[LooseResult, asyncio.Future[None]]]) -> None:
        try:
            written = await asyncio.to_thread(self._commit, [result for result, _ in batch])
        except Exception as error:
            self._failure = error
            failed, self._gathering = [*batch, *self._gathering], []
            self._unwritten += [result for result, _ in failed]
            for _, future in failed:
                if not future.done():
                    future.set_exception(error)
                    # Whoever was cancelled meanwhile asks no more, and asyncio need not complain of that.
                    future.exception()
            return
        for result, future in batch:
            self._on_written(result, result.loose_mail_id in written)
            if not future.done():
                future.set_result(None)

    def _commit(self, results: list[LooseResult]) -> set[int]:
        with self._database.begin() as connection:
            written = record_loose_results(connection, results)
            crash_point("loose_results_written")
        crash_point("loose_results_durable")
        return written


def _written(
    mail: ReservedMail, result: DeliveryResult, step: NextStep, code: FailureCode | None
) -> LooseResult:
    return LooseResult(
        loose_mail_id=mail.loose_mail_id,
        fence=mail.fence,
        release_id=None if mail.of_release is None else mail.of_release.release_id,
        mail_job_id=None if mail.of_release is None else mail.of_release.mail_job_id,
        result=result,
        enters=step.enters,
        due_at=step.due_at,
        is_counted=step.is_counted,
        code=code,
        description=step.description,
    )

"""Hypothesis does things to the queue in PostgreSQL and to the model of it, and compares the two after every step.

Mailcasters of every type come for work, send, beat their hearts, finish, fail, are killed, or are suspended and come
back; releases, campaigns and time go on beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis.stateful import invariant
from sqlalchemy import text

from mail_orchestration.feedback.books import books
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.states import ENDED, MailJobState
from tests.integration.dispatch_rows import HANG_AFTER_S
from tests.integration.queue_model.fleet import SWEEPERS
from tests.integration.queue_model.jobs import Job
from tests.integration.queue_model.operating import WithOperator

_S = MailJobState


class QueueMachine(WithOperator):
    """One run: whatever was done, database and model are the same, and in the end everything is sent."""

    # What must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def the_database_is_as_the_model(self) -> None:
        with self.database.begin() as connection:
            of_releases = {"release_ids": [release.number for release in self.releases]}
            rows = connection.execute(_ALL_MAIL_JOBS, of_releases).all()
            results: dict[tuple[int, int], list[str]] = {}
            for release, number, outcome in connection.execute(_ALL_RESULTS, of_releases):
                results.setdefault((release, number), []).append(outcome)
            retried = [tuple(row) for row in connection.execute(_ALL_RETRIES, of_releases)]
            for number in self._changed(rows, results):
                counted = books(connection, number)
                assert counted.balances, counted.explanation
        assert {row.mail_job_id for row in rows} == set(self.model.jobs)
        for row in rows:
            self._compare(row, self.model.jobs[row.mail_job_id])
        assert results == self.model.results
        assert sorted(retried) == sorted(self.model.deferred()), "a deferred message has one loose mail"
        assert not list(self.model.faults())

    def _changed(self, rows: Sequence[Any], results: Mapping[tuple[int, int], list[str]]) -> list[int]:
        """The releases of which some row is another one than at the last look: their books are counted again."""
        changed = []
        for release in self.releases:
            number = release.number
            seen = (
                sorted(
                    (row.mail_job_id, row.state, row.next_message) for row in rows if row.release_id == number
                ),
                sum(len(outcomes) for (of, _), outcomes in results.items() if of == number),
            )
            if self.seen.get(number) != seen:
                self.seen[number] = seen
                changed.append(number)
        return changed

    def _compare(self, row: Any, job: Job) -> None:
        number = job.number
        assert row.state == job.state, f"mail job {number} is {row.state}, not {job.state}"
        found = (row.kind, row.first_message, row.last_message, row.next_message, row.priority, row.queued_at)
        assert found == (job.kind, job.first, job.last, job.next, job.priority, job.queued_at)
        assert row.parent_id == (job.parent and job.parent.number)
        assert row.recovers_id == (job.recovers and job.recovers.number)
        assert row.release_id == job.release.number
        assert (row.ended_at is not None) == (job.state in ENDED)
        if job.state in (_S.RUNNING, _S.STOPPING):
            is_handed_back = row.heartbeat_at.year == 1970
            assert is_handed_back or row.heartbeat_at == job.heartbeat_at
        assert row.fence >= self.known_fences.get(number, 0), f"the fence of mail job {number} went back"
        self.known_fences[number] = row.fence
        assert row.figures <= job.recorded
        if job.state is _S.RECOVERED:
            assert row.figures == job.recorded
        assert row.asked_state == job.asked

    # The end ------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """However it went, the rest of the fleet ends it, and every message has one result."""
        try:
            if sys.exc_info()[0] is None:
                self._drain()
        finally:
            for holder in self.holders:
                holder.held.__exit__(None, None, None)

    def _drain(self) -> None:
        for each in list(self.holders):
            self._leave(each)
        for campaign in (0, 1):
            self._revive(campaign)
            self._resume(campaign)
        self.time_passes(HANG_AFTER_S + 1, False)
        self._restart_all(None)
        for job in self._in(_S.QUEUING):
            self._queue(job)
        for job in self._in(_S.FAILED):
            self._restart(job, True, None)
        for who in SWEEPERS:
            while (holder := self._claim(who)) is not None:
                self._send(holder, 1000, Outcome.ACCEPTED)
                self._repeat(holder, 1000, Outcome.ACCEPTED)
                self._finish(holder)
                self._leave(holder)
        self.the_database_is_as_the_model()
        for job in self.model.jobs.values():
            assert job.state in ENDED, f"mail job {job.number} is left {job.state}"
            if job.first is not None and job.state is not _S.STOPPED:
                assert not self.model.unsent(job), f"messages of {job.state} mail job {job.number} are left"


_ALL_MAIL_JOBS = text(
    "SELECT *, accepted + deferred + rejected + uncertain + stopped AS figures FROM mail_job "
    "WHERE release_id = ANY(:release_ids)"
)
_ALL_RETRIES = text("SELECT release_id, message_no FROM loose_mail WHERE release_id = ANY(:release_ids)")
_ALL_RESULTS = text(
    "SELECT release_id, message_no, outcome FROM result WHERE release_id = ANY(:release_ids) ORDER BY result_no"
)

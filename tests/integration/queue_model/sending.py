"""Mailcasters send what they hold, and end it: finished, failed, stopped or handed back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from mail_orchestration.dispatch.claims import Claim, unsent_messages
from mail_orchestration.dispatch.repeating import repeatable_messages
from mail_orchestration.feedback.result_rows import follow_up_columns, needs_follow_up, result_columns
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import NOW
from tests.integration.queue_model.claiming import WithClaims
from tests.integration.queue_model.jobs import Job
from tests.integration.queue_model.world import Holder, picks

_S = MailJobState
OUTCOMES = (Outcome.ACCEPTED, Outcome.UNCERTAIN, Outcome.DEFERRED, Outcome.REJECTED, Outcome.STOPPED)
MOST_ATTEMPTS = (3, 1)
"""Of each campaign: one sends uncertain messages again, one holds them for the operator."""
MOST_TRIES, RETRY_AFTER = 3, timedelta(minutes=10)
"""Of a message that is deferred."""


class WithSending(WithClaims):
    """What becomes of a claim that is held, rightly or not."""

    @rule(pick=picks, outcome=st.sampled_from(OUTCOMES))
    @precondition(lambda self: self.holders)
    def send_all_and_finish(self, pick: int, outcome: Outcome) -> None:
        self._send_all_and_finish(self._holder(pick), outcome)

    @rule(outcome=st.sampled_from(OUTCOMES[:2]))
    @precondition(lambda self: self.holders)
    def everybody_finishes(self, outcome: Outcome) -> None:
        for holder in list(self.holders):
            self._send_all_and_finish(holder, outcome)

    @rule()
    @precondition(lambda self: self.holders)
    def everybody_gives_up(self) -> None:
        for holder in list(self.holders):
            self._give_up(holder)

    def _send_all_and_finish(self, holder: Holder, outcome: Outcome) -> None:
        self._send(holder, 1000, outcome)
        while self.model.repeatable(holder.job, self._most_attempts(holder.job)) and holder.job.is_live:
            self._repeat(holder, 1000, outcome)
        self._finish(holder)

    @rule(pick=picks, count=st.integers(1, 30), outcome=st.sampled_from(OUTCOMES))
    @precondition(lambda self: self.holders)
    def send(self, pick: int, count: int, outcome: Outcome) -> None:
        self._send(self._holder(pick), count, outcome)

    def _send(self, holder: Holder, count: int, outcome: Outcome) -> None:
        job = holder.job
        with self.database.begin() as connection:
            found = unsent_messages(connection, holder.claim, 0, 1000)
        unsent = self.model.unsent(job)
        assert [message.message_no for message in found.to_send] == unsent
        # Who lost the claim without knowing comes with results of messages that somebody else may have sent.
        numbers = unsent[:count] if job.is_live else list(job.numbers)[:count]
        written = self._append(holder.claim, numbers, outcome)
        assert written == (len(numbers) if job.is_live else 0), f"{written} results under {job.state}"
        for number in numbers[:written]:
            self.model.record(job, number, outcome.value)

    @rule(pick=picks, count=st.integers(1, 30), outcome=st.sampled_from(OUTCOMES[:2]))
    @precondition(lambda self: self.holders)
    def repeat(self, pick: int, count: int, outcome: Outcome) -> None:
        self._repeat(self._holder(pick), count, outcome)

    def _repeat(self, holder: Holder, count: int, outcome: Outcome) -> None:
        """Send uncertain messages once more."""
        job = holder.job
        most = self._most_attempts(job)
        uncertain = self.model.repeatable(job, most)
        with self.database.begin() as connection:
            found = repeatable_messages(connection, holder.claim, 0, 1000, most)
        assert [message.message_no for message in found.to_send] == uncertain
        result_nos = {number: found.result_nos[number] + 1 for number in uncertain[:count]}
        written = self._append(holder.claim, uncertain[:count], outcome, result_nos)
        assert written == (len(result_nos) if job.is_live else 0)
        for number in uncertain[:written]:
            self.model.record(job, number, outcome.value)

    def _most_attempts(self, job: Job) -> int:
        return MOST_ATTEMPTS[self.campaigns.index(job.release.campaign)]

    @rule(pick=picks)
    @precondition(lambda self: self.holders)
    def progress(self, pick: int) -> None:
        holder = self._holder(pick)
        with self._refused_unless(holder.job.is_live):
            figures = {Outcome.ACCEPTED: holder.job.recorded}
            assert holder.held.progress(figures) is (holder.job.state is _S.STOPPING)

    @rule(pick=picks)
    @precondition(lambda self: self.holders)
    def finish(self, pick: int) -> None:
        self._finish(self._holder(pick))

    def _finish(self, holder: Holder) -> None:
        job = holder.job
        most = self._most_attempts(job)
        if self.model.unsent(job) or self.model.repeatable(job, most):
            with self._conflict_if(True):
                holder.held.finish(self.now, most_attempts=most)
            return
        with self._refused_unless(job.is_live):
            entered = holder.held.finish(self.now, most_attempts=most)
            self.model.end(job, _S.FINISHED)
            assert entered is job.state

    @rule(pick=picks)
    @precondition(lambda self: self.holders)
    def give_up(self, pick: int) -> None:
        self._give_up(self._holder(pick))

    def _give_up(self, holder: Holder) -> None:
        job = holder.job
        with self._refused_unless(job.is_live):
            entered = holder.held.fail("the relay cannot be reached", self.now)
            self.model.end(job, _S.FAILED)
            assert entered is job.state

    @rule(pick=picks)
    @precondition(lambda self: self.holders)
    def let_go_stopped(self, pick: int) -> None:
        self._let_go(self._holder(pick))

    def _let_go(self, holder: Holder) -> None:
        with self._refused_unless(holder.job.state is _S.STOPPING):
            entered = holder.held.let_go_stopped(self.now)
            self.model.end(holder.job, _S.STOPPED_R)
            assert entered is holder.job.state

    @rule(pick=picks)
    @precondition(lambda self: self.holders)
    def hand_back(self, pick: int) -> None:
        holder = self._holder(pick)
        with self._refused_unless(holder.job.is_live):
            holder.held.hand_back()
            holder.job.heartbeat_at = NOW - timedelta(days=10_000)
            holder.job.is_handed_back = True

    def _append(
        self,
        claim: Claim,
        numbers: Sequence[int],
        outcome: Outcome,
        result_nos: Mapping[int, int] | None = None,
    ) -> int:
        """Results as the results log writes them; returns how many rows were written. `result_nos`: of later ones."""
        later: list[tuple[int, Outcome | None]] = [
            (1, None) if result_nos is None else (result_nos[number], Outcome.UNCERTAIN) for number in numbers
        ]
        results = [
            DeliveryResult(number, number, outcome, None, None, None, "relay", self.now, *nth)
            for number, nth in zip(numbers, later, strict=True)
        ]
        binds: dict[str, Any] = {name: column.decode() for name, column in result_columns(results).items()}
        binds |= {"mail_job_id": claim.mail_job_id, "fence": claim.fence}
        binds |= {"release_id": claim.release_id, "released_on": claim.released_on}
        statement = STATEMENTS["append_results"]
        if any(map(needs_follow_up, results)):
            statement = STATEMENTS["append_results_and_follow_up"]
            binds |= {name: column.decode() for name, column in follow_up_columns(results).items()}
            binds |= {"most_attempts": MOST_TRIES, "retry_after_s": RETRY_AFTER.total_seconds()}
        with self.database.begin() as connection:
            return connection.execute(statement, binds).rowcount

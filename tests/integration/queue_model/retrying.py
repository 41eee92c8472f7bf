"""What a relay deferred is tried again by whoever is free, beside the mail jobs that it came from."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from sqlalchemy import text

from mail_orchestration.dispatch.loose_mails import (
    MOST_RUN_OUTS,
    ReservedMail,
    ensure_delivery_log,
    reserve_loose_mails,
)
from mail_orchestration.dispatch.retry_policy import RetryPolicy, next_step
from mail_orchestration.feedback.loose_results import LooseResult, record_loose_results
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.loose_mail_states import LooseMailKind
from tests.integration.queue_model.sending import MOST_TRIES, RETRY_AFTER, WithSending

LEASE_S = 1800.0


class WithRetries(WithSending):
    """Loose mails: the model knows of each message what its last result is, and that a deferred one waits somewhere."""

    @rule(
        count=st.integers(1, 30),
        outcome=st.sampled_from([Outcome.ACCEPTED, Outcome.DEFERRED, Outcome.REJECTED]),
        dies=st.sampled_from([False, False, True]),
    )
    @precondition(lambda self: self.model.deferred())
    def retry(self, count: int, outcome: Outcome, dies: bool) -> None:
        mails = self._reserve(count)
        for mail in mails:
            assert mail.of_release is not None
            key = (mail.of_release.release_id, mail.of_release.message_no)
            assert key in self.model.deferred(), "only what was deferred is tried again"
            assert self.model.results[key][: mail.of_release.result_no] == self.model.results[key]
            assert self.model.campaigns[self.model.jobs[key[0]].release.campaign] == "live"
        if dies:
            # Its reservations run out, and what it would say now comes too late.
            with self.database.begin() as connection:
                connection.execute(
                    text("UPDATE loose_mail SET reserved_until = :now WHERE state = 'SENDING'"),
                    {"now": self.now},
                )
            again = set()
            while found := self._reserve(1000):
                assert len(found) == 1 or not any(mail.run_outs for mail in found), (
                    "who may be guilty goes alone"
                )
                again |= {mail.loose_mail_id for mail in found}
            alive = {mail.loose_mail_id for mail in mails if mail.run_outs + 1 < MOST_RUN_OUTS}
            assert again.isdisjoint({mail.loose_mail_id for mail in mails} - alive), "they are dead letters"
            assert alive <= again
            assert self._write(mails, outcome) == set()
            return
        assert self._write(mails, outcome) == {mail.loose_mail_id for mail in mails}
        for mail in mails:
            assert mail.of_release is not None
            self.model.results[mail.of_release.release_id, mail.of_release.message_no].append(outcome.value)

    def _reserve(self, most: int) -> list[ReservedMail]:
        with self.database.begin() as connection:
            ensure_delivery_log(connection, self.now)
            # Those of a worker that was killed before may be among them: their time is over.
            return reserve_loose_mails(
                connection,
                self.installation_id,
                "worker",
                kinds=[LooseMailKind.RETRY],
                most=most,
                for_s=LEASE_S,
                now=self.now,
                began=steady_seconds(),
            )

    def _write(self, mails: list[ReservedMail], outcome: Outcome) -> set[int]:
        policy = RetryPolicy(most_attempts=MOST_TRIES, retry_after=RETRY_AFTER)
        results = []
        for mail in mails:
            assert mail.of_release is not None
            result = DeliveryResult(
                mail.loose_mail_id, mail.contact_id, outcome, None, None, None, "relay", self.now
            )
            step = next_step(mail.kind, result, mail.attempts, policy)
            results.append(
                LooseResult(
                    loose_mail_id=mail.loose_mail_id,
                    fence=mail.fence,
                    release_id=mail.of_release.release_id,
                    mail_job_id=mail.of_release.mail_job_id,
                    result=result,
                    enters=step.enters,
                    due_at=step.due_at,
                    is_counted=step.is_counted,
                    code=None,
                    description=step.description,
                )
            )
        with self.database.begin() as connection:
            return record_loose_results(connection, results)

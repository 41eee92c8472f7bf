"""The operator stops and restarts mail jobs, one, a campaign's or all, and the clean-up looks for dead holders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from sqlalchemy import Connection

from mail_orchestration.dispatch.operating import Operated, Signs
from mail_orchestration.dispatch.restarting import mail_jobs_to_restart, restart_mail_job
from mail_orchestration.dispatch.stopping import end_stopping_of_dead, mail_jobs_to_stop, stop_mail_job
from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.fleet_settings import DispatcherSettings
from mail_orchestration.kernel.states import ENDED, MailJobState
from tests.integration.dispatch_rows import HANG_AFTER_S
from tests.integration.queue_model.jobs import Job
from tests.integration.queue_model.retrying import WithRetries
from tests.integration.queue_model.world import CAMPAIGNS, picks

_S = MailJobState
DISPATCHER = DispatcherSettings(heartbeat_seconds=10, hang_after_seconds=HANG_AFTER_S)


class WithOperator(WithRetries):
    """What the operator asks for, and whether it is said what became of it."""

    @rule(pick=picks)
    @precondition(lambda self: self.model.jobs)
    def stop(self, pick: int) -> None:
        self._stop(self._mostly(pick, *(state for state in _S if state not in ENDED)))

    @rule(campaign=st.sampled_from([None, *CAMPAIGNS]), stops=st.booleans())
    @precondition(lambda self: self._in(_S.STOPPED_Q, _S.STOPPED_R, _S.RUNNING))
    def stop_or_restart_all(self, campaign: str | None, stops: bool) -> None:
        if stops:
            self._stop_all(campaign)
        else:
            self._restart_all(campaign)

    def _stop_all(self, campaign: str | None) -> None:
        numbers = self._known(mail_jobs_to_stop, campaign)
        assert len(numbers) == len(set(numbers))
        for number in numbers:
            self._stop(self.model.jobs[number])
        still = self._in(_S.QUEUED, _S.P_QUEUED, _S.P_ASSIGNING, _S.P_ASSIGNED, _S.RUNNING, _S.RECOVERING)
        assert not [job for job in still if campaign in (None, self._campaign_of(job))]

    def _stop(self, job: Job) -> None:
        with self._says_what_changed() as done, self.database.begin() as connection:
            done += stop_mail_job(connection, self.installation_id, job.number, self._signs())
            self.model.stop(job)

    @rule(pick=picks, failed_too=st.booleans(), expire_in_hours=st.sampled_from([None, None, 3.0, 96.0]))
    @precondition(lambda self: self.model.jobs)
    def restart(self, pick: int, failed_too: bool, expire_in_hours: float | None) -> None:
        job = self._mostly(pick, _S.STOPPED_R, _S.STOPPED_Q, _S.STOPPING, _S.FAILED, _S.P_FAILED)
        self._restart(job, failed_too, expire_in_hours)

    def _restart_all(self, campaign: str | None) -> None:
        for number in self._known(mail_jobs_to_restart, campaign):
            self._restart(self.model.jobs[number], False, None)
        still = self._in(_S.STOPPED_Q, _S.STOPPED_R)
        assert not [job for job in still if campaign in (None, self._campaign_of(job))]

    def _restart(self, job: Job, failed_too: bool, expire_in_hours: float | None) -> None:
        with self._says_what_changed() as done, self.database.begin() as connection:
            done += restart_mail_job(
                connection,
                self.installation_id,
                job.number,
                self._signs(),
                expire_in_hours=expire_in_hours,
                failed_too=failed_too,
            )
            self.model.restart(job, expire_in_hours=expire_in_hours, failed_too=failed_too)

    @rule()
    @precondition(lambda self: self._in(_S.STOPPING))
    def clean_up(self) -> None:
        """What must stop and whose holder is dead is let go of by whoever looks next."""
        with self._says_what_changed() as done:
            done += end_stopping_of_dead(self.database, self.installation_id, DISPATCHER, self.now)
            for job in self._in(_S.STOPPING):
                self.model.let_go_if_dead(job)
                self.model.settle(job.parent)

    def _signs(self) -> Signs:
        return Signs.of(DISPATCHER, self.now)

    def _known(
        self, find: Callable[[Connection, int, str | None], list[int]], campaign: str | None
    ) -> list[int]:
        """What a stop or a restart of a campaign, or of everything, is to go through."""
        try:
            with self.database.begin() as connection:
                return find(connection, self.installation_id, campaign)
        except NotFound:
            assert campaign not in {self._campaign_of(job) for job in self.model.jobs.values()}
            return []

    def _campaign_of(self, job: Job) -> str:
        return CAMPAIGNS[self.campaigns.index(job.release.campaign)]

    @contextmanager
    def _says_what_changed(self) -> Iterator[list[Operated]]:
        """Every mail job that the model changed in the block is reported, and with the right states.

        But for the parent of one that was named itself: that is not spoken of.
        """
        before = {number: job.state for number, job in self.model.jobs.items()}
        done: list[Operated] = []
        yield done
        said = {each.mail_job_id: (each.left, each.entered) for each in done}
        changed = {
            number: (before[number], job.state)
            for number, job in self.model.jobs.items()
            if job.state is not before[number] and (number in said or job.kind != "parent")
        }
        assert {number: states for number, states in said.items() if len(set(states)) == 2} == changed

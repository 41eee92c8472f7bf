"""What the queue should do, written a second time and in other words: plain Python, no database, no library's policy.

`test_queue_model.py` does the same things to this model and to PostgreSQL and compares them after every step. The
tables of the spec stand here once more on purpose: a mistake in the library's own must not hide in the test.
"""

from __future__ import annotations

from collections.abc import Iterator

from mail_orchestration.kernel.states import MailJobState
from tests.integration.queue_model.handing_out import HandingOut
from tests.integration.queue_model.jobs import Job

_S = MailJobState


class QueueModel(HandingOut):
    """With what the operator does, and with what is always true."""

    # The operator -----------------------------------------------------------------------------------------------

    def last_of_chain(self, job: Job) -> Job:
        """The mail job that stands for this one now (spec 3.3)."""
        for other in self.jobs.values():
            if other.recovers is job:
                return self.last_of_chain(other)
        return job

    def stop(self, job: Job) -> None:
        """The operator stops a mail job, a parent with its children (spec 3.2, 5.6)."""
        job = self.last_of_chain(job)
        self._stop(job)
        if job.kind == "parent":
            for child in self.children(job):
                self._stop(child)
            self.settle(job)
        else:
            self.settle(job.parent)

    def _stop(self, job: Job) -> None:
        match job.state:
            case _S.QUEUING | _S.INTERRUPTED:
                job.asked = _S.STOPPED_Q
            case _S.QUEUED | _S.P_QUEUED:
                job.enter(_S.STOPPED_Q)
            case _S.P_ASSIGNING | _S.P_ASSIGNED | _S.RECOVERING:
                job.enter(_S.STOPPED_R)
            case _S.RUNNING:
                job.enter(_S.STOPPING)
                self.let_go_if_dead(job)
            case _S.STOPPING:
                job.asked = None
                self.let_go_if_dead(job)
            case _:
                pass

    def let_go_if_dead(self, job: Job) -> None:
        """A dead holder cannot let go of what is to stop: that is done in its place."""
        assert job.heartbeat_at is not None
        silence = self.now - job.heartbeat_at
        if silence > self.hang_after or (silence > self.silent_after and not job.has_session):
            job.enter(_S.FINISHED if self.is_complete(job) else (job.asked or _S.STOPPED_R))
            job.asked = None

    def restart(self, job: Job, *, expire_in_hours: float | None, failed_too: bool) -> None:
        """The operator lets go on what is stopped, and with `failed_too` what failed."""
        job = self.last_of_chain(job)
        goes_on = [each for each in [job, *self.children(job)] if self._can_go_on(each, failed_too)]
        parent = job if job.kind == "parent" else job.parent
        if parent is not None and goes_on and (parent is job or parent.state is not _S.STOPPED_R):
            if parent.state is _S.STOPPED_R:
                parent.enter(_S.P_ASSIGNING if parent.next in parent.numbers else _S.P_ASSIGNED)
            elif parent.state in (_S.P_FAILED, _S.P_PARTIAL_FINISHED):
                parent.enter(_S.P_ASSIGNED)
        if parent is None or parent is job or parent.state is not _S.STOPPED_R:
            for each in goes_on:
                self._go_on(each, expire_in_hours)
        self.settle(parent)

    def _can_go_on(self, job: Job, failed_too: bool) -> bool:
        if job.state is _S.FAILED:
            return failed_too and job.first is not None and not self.is_complete(job)
        return job.state in (_S.QUEUING, _S.STOPPED_Q, _S.STOPPED_R, _S.STOPPING)

    def _go_on(self, job: Job, expire_in_hours: float | None) -> None:
        match job.state:
            case _S.QUEUING:
                job.asked = None
            case _S.STOPPED_Q:
                job.enter(_S.QUEUED if job.kind == "small" else _S.P_QUEUED)
                job.queued_at = self.now
            case _S.STOPPING:
                job.asked = _S.RECOVERING
                self.let_go_if_dead(job)
            case _S.STOPPED_R | _S.FAILED:
                job.enter(_S.RECOVERING)
            case _:
                pass
        if (
            job.state is _S.RECOVERING
            and expire_in_hours is not None
            and self.is_too_old(job, expire_in_hours)
        ):
            self.expire(job)

    # What is always true ----------------------------------------------------------------------------------------

    def faults(self) -> Iterator[str]:
        """Sentences on what must never be, in the mail jobs as they are (spec 3.2, 3.3, 4.6, 5.3)."""
        for job in self.jobs.values():
            if job.kind == "parent" and job.next is not None:
                yield from self._faults_of_parent(job)
            successors = [other for other in self.jobs.values() if other.recovers is job]
            if len(successors) != (job.state is _S.RECOVERED):
                yield f"{job.state} mail job {job.number} was replaced {len(successors)} times"
        for (release, number), outcomes in self.results.items():
            if set(outcomes[:-1]) - {"uncertain"}:
                yield f"message {number} of release {release} has results {outcomes}"

    def _faults_of_parent(self, parent: Job) -> Iterator[str]:
        children = self.children(parent)
        handed_out = [number for child in children for number in child.numbers]
        assert parent.next is not None
        if handed_out != list(range(1, parent.next)):
            yield f"parent {parent.number} handed out up to {parent.next - 1}, its children have {handed_out}"
        may_be = self._states_of_parent(parent, {child.state for child in children})
        if parent.state not in may_be:
            yield f"parent {parent.number} is {parent.state}, not one of {sorted(may_be)}"

    def _states_of_parent(self, parent: Job, children: set[MailJobState]) -> set[MailJobState]:
        if not children:
            return {_S.P_QUEUED, _S.STOPPED_Q, _S.STOPPED}
        stopped = set() if _S.RUNNING in children else {_S.STOPPED_R}
        if parent.next in parent.numbers:
            return {_S.P_ASSIGNING} | stopped
        if children == {_S.FINISHED}:
            return {_S.P_FINISHED}
        if children == {_S.FAILED}:
            return {_S.P_FAILED}
        if children == {_S.FINISHED, _S.FAILED}:
            return {_S.P_PARTIAL_FINISHED}
        return {_S.P_ASSIGNED} | stopped

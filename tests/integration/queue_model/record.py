"""The model's record: all mail jobs of an installation, every result, and how a mail job ends."""

from __future__ import annotations

from datetime import datetime, timedelta

from mail_orchestration.kernel.states import ENDED, MailJobState
from tests.integration.queue_model.jobs import WAITING, Job

_S = MailJobState
ANY_NUMBER = 1000


class QueueRecord:
    """All releases and mail jobs of one installation, and every result."""

    def __init__(self, now: datetime, *, hang_after: timedelta, silent_after: timedelta) -> None:
        self.now = now
        self.hang_after = hang_after
        self.silent_after = silent_after
        """A holder that is to stop, whose session is gone and who was silent for longer, is dead."""
        self.campaigns: dict[int, str] = {}
        self.jobs: dict[int, Job] = {}
        self.results: dict[tuple[int, int], list[str]] = {}

    # What is there ----------------------------------------------------------------------------------------------

    def children(self, parent: Job) -> list[Job]:
        """The effective children of a parent, in the order of their messages (spec 3.3)."""
        found = [job for job in self.jobs.values() if job.parent is parent and job.state is not _S.RECOVERED]
        return sorted(found, key=lambda job: job.numbers.start)

    def unsent(self, job: Job) -> list[int]:
        """The messages of a mail job without a result."""
        return [number for number in job.numbers if (job.release.number, number) not in self.results]

    def repeatable(self, job: Job, most_attempts: int) -> list[int]:
        """The messages of a mail job whose last result is uncertain, after fewer attempts than the most (spec 5.7)."""
        return [
            number
            for number in job.numbers
            if (found := self.results.get((job.release.number, number)))
            and found[-1] == "uncertain"
            and len(found) < most_attempts
        ]

    def deferred(self) -> set[tuple[int, int]]:
        """The messages whose last result is deferred, by release and number: each has one loose mail (spec 6.4)."""
        return {key for key, outcomes in self.results.items() if outcomes[-1] == "deferred"}

    def is_complete(self, job: Job) -> bool:
        """Nothing is left of it that a mailcaster could do, as far as an operator can know."""
        return not self.unsent(job) and not self.repeatable(job, ANY_NUMBER)

    def hangs(self, job: Job) -> bool:
        """RUNNING without a sign of life for longer than the hang time (spec 5.2)."""
        assert job.heartbeat_at is not None
        return job.state is _S.RUNNING and self.now - job.heartbeat_at > self.hang_after

    def is_held(self, job: Job) -> bool:
        """A paused campaign holds all of it, a deleted one what has not begun (spec 3.4)."""
        match self.campaigns[job.release.campaign]:
            case "paused":
                return True
            case "deleted":
                return job.state in WAITING
            case _:
                return False

    def waiting(self, campaign: int) -> list[Job]:
        """The mail jobs of a campaign of which nothing was taken yet."""
        return [
            job for job in self.jobs.values() if job.release.campaign == campaign and job.state in WAITING
        ]

    def begun(self, campaign: int) -> list[Job]:
        """The mail jobs of a campaign, but for children, that were begun and have not ended."""
        return [
            job
            for job in self.jobs.values()
            if job.release.campaign == campaign and job.parent is None and job.state not in ENDED | WAITING
        ]

    def is_too_old(self, job: Job, expire_in_hours: float) -> bool:
        assert job.queued_at is not None
        if self.now - job.queued_at > timedelta(hours=expire_in_hours):
            return True
        return job.release.expires_at is not None and self.now >= job.release.expires_at

    # What becomes of it -----------------------------------------------------------------------------------------

    def record(self, job: Job, number: int, outcome: str) -> None:
        """A result under a mail job. A message counts for the one that recorded its first."""
        known = self.results.setdefault((job.release.number, number), [])
        job.recorded += not known and outcome != "expired"
        known.append(outcome)

    def expire(self, job: Job) -> None:
        """It fails, too old to be recovered, and what it did not send expires (spec 5.4)."""
        for number in self.unsent(job):
            self.record(job, number, "expired")
        job.enter(_S.FAILED)

    def end(self, job: Job, state: MailJobState) -> None:
        """Its holder ends it in `state`; one that was to stop is stopped instead, unless it is finished."""
        if job.state is _S.STOPPING and state is not _S.FINISHED:
            state = job.asked or _S.STOPPED_R
        job.enter(state)
        job.asked, job.heartbeat_at = None, self.now
        self.settle(job.parent)

    def settle(self, parent: Job | None) -> None:
        """A parent ends with the last of its effective children (spec 3.2, 3.3), a stopped one too."""
        if parent is None or parent.state not in (_S.P_ASSIGNED, _S.STOPPED_R):
            return
        if parent.next in parent.numbers:
            return
        states = {child.state for child in self.children(parent)}
        if states == {_S.FINISHED}:
            parent.enter(_S.P_FINISHED)
        elif states == {_S.FAILED}:
            parent.enter(_S.P_FAILED)
        elif states == {_S.FINISHED, _S.FAILED}:
            parent.enter(_S.P_PARTIAL_FINISHED)

"""The model of what mailcasters are given when they come for work (spec 4.3, 4.4, 5.3, 5.4)."""

from __future__ import annotations

from collections.abc import Collection

from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.states import MailJobState
from tests.integration.queue_model.jobs import Job, Work, searches, share
from tests.integration.queue_model.record import QueueRecord

_S = MailJobState


class HandingOut(QueueRecord):
    """Which work a mailcaster should get, and what taking it changes."""

    def next_work(self, mailcaster: MailcasterParameters, locked: Collection[Job] = ()) -> Work | None:
        """The work that this mailcaster should get now, while somebody else has `locked` in hand.

        On the way what is too old to be recovered fails, as it should (spec 5.4).
        """
        for name in searches(mailcaster):
            for job in self._waiting(name):
                if job in locked or self.is_held(job):
                    continue
                if name in ("small queued",):
                    return Work(job, "taken", *self._range(job))
                if name in ("assigning", "untouched"):
                    return self._share_of(job, name == "untouched", mailcaster)
                if not self._may_be_recovered(job):
                    continue
                if self.is_too_old(job, mailcaster.job_recovery_expire_in_hours):
                    if job.parent is None or job.parent not in locked:
                        self.expire(job)
                        self.settle(job.parent)
                    continue
                return Work(job, "recovered", *self._range(job))
        return None

    def chosen_work(self, job: Job, mailcaster: MailcasterParameters) -> Work | None:
        """The work that this mailcaster should get when the operator chose `job` for it, out of turn."""
        if self.is_held(job):
            return None
        if job.state is _S.QUEUED:
            return Work(job, "taken", *self._range(job))
        # The operator need not wait for the hang time: a holder that is letting go has nothing in flight.
        is_beating = job.has_session and job.heartbeat_at is not None and job.heartbeat_at >= self.now
        if job.state is not _S.RECOVERING or is_beating:
            return None
        if self.is_too_old(job, mailcaster.job_recovery_expire_in_hours):
            self.expire(job)
            self.settle(job.parent)
            return None
        return Work(job, "recovered", *self._range(job))

    def _waiting(self, name: str) -> list[Job]:
        kind, _, what = name.rpartition(" ")
        found = [
            job
            for job in self.jobs.values()
            if (what == "queued" and job.state is _S.QUEUED)
            or (what == "assigning" and job.state is _S.P_ASSIGNING)
            or (what == "untouched" and job.state is _S.P_QUEUED)
            or (what == "recovering" and job.state is _S.RECOVERING and job.kind == kind)
            or (what == "hanging" and job.state is _S.RUNNING and job.kind == kind and self.hangs(job))
        ]
        return sorted(found, key=lambda job: (-job.priority, job.queued_at, job.number))

    def _may_be_recovered(self, job: Job) -> bool:
        """Its old holder is gone, or was silent for the hang time; else it is still letting go."""
        if not job.has_session or job.heartbeat_at is None:
            return True
        return self.now - job.heartbeat_at > self.hang_after

    def _share_of(self, parent: Job, untouched: bool, mailcaster: MailcasterParameters) -> Work:
        assert parent.next is not None
        assert parent.last is not None
        remaining = parent.last - parent.next + 1
        size = share(remaining, len(parent.numbers), untouched, mailcaster)
        return Work(parent, "divided", parent.next, parent.next + size - 1)

    def _range(self, job: Job) -> tuple[int, int]:
        assert job.first is not None
        assert job.last is not None
        return job.first, job.last

    def take(self, work: Work, number: int) -> Job:
        """A mailcaster was given `work` as mail job `number`."""
        source = work.source
        if work.how == "taken":
            source.enter(_S.RUNNING)
            source.heartbeat_at = self.now
            return source
        parent, recovers = source.parent, None
        if work.how == "divided":
            parent = source
            source.next = work.last + 1
            enters = _S.P_ASSIGNING if work.last < source.numbers[-1] else _S.P_ASSIGNED
            if source.state is not enters:
                source.enter(enters)
        else:
            recovers = source
            source.enter(_S.RECOVERED)
        new = Job(
            number=number,
            release=source.release,
            kind="child" if work.how == "divided" else source.kind,
            state=_S.RUNNING,
            first=work.first,
            last=work.last,
            parent=parent,
            recovers=recovers,
            priority=source.priority,
            queued_at=source.queued_at,
            heartbeat_at=self.now,
        )
        self.jobs[number] = new
        return new

"""What the queue should do, written a second time and in other words: plain Python, no database, no library's policy.

`test_queue_model.py` does the same things to this model and to PostgreSQL and compares them after every step. The
tables of the spec stand here once more on purpose: a mistake in the library's own must not hide in the test.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mail_orchestration.kernel.settings import MailcasterParameters
from mail_orchestration.kernel.states import ENDED, TRANSITIONS, MailJobState

_S = MailJobState
LIVE = frozenset({_S.RUNNING, _S.STOPPING})
"""A mailcaster has it in hand."""
WAITING = frozenset({_S.QUEUING, _S.INTERRUPTED, _S.QUEUED, _S.P_QUEUED})
"""Nothing of it was taken yet."""
ANY_NUMBER = 1000

SEARCHES = {
    "small only": "small recovering, small hanging, small queued",
    "small first": "small recovering, small hanging, small queued, child recovering, assigning, untouched",
    "large first": "child recovering, child hanging, assigning, untouched, "
    "small recovering, small hanging, small queued",
    "large only": "child recovering, child hanging, assigning, untouched",
}
"""The table of spec 4.3."""


def searches(mailcaster: MailcasterParameters) -> list[str]:
    """What a mailcaster looks for, in order (spec 4.1, 4.3, 5.3)."""
    over = mailcaster.max_job_size - mailcaster.small_audience_threshold
    if over > 0:
        line = "large only" if mailcaster.large_job_only else "large first"
    elif over < 0 and mailcaster.small_job_only:
        line = "small only"
    else:
        line = "small first"
    classes = SEARCHES[line].split(", ")
    return [name for name in classes if mailcaster.automatic_mail_job_recovery or "hanging" not in name]


def share(remaining: int, total: int, untouched: bool, mailcaster: MailcasterParameters) -> int:
    """How many messages the next child takes (spec 4.4)."""
    if untouched and mailcaster.min_job_size <= total <= mailcaster.max_job_size:
        return total
    size = int(mailcaster.percentage_job_size) * remaining // 100
    size = max(size, mailcaster.min_job_size)
    size = min(size, mailcaster.max_job_size)
    return min(size, remaining)


@dataclass
class ReleaseModel:
    """What was released: messages 1 … `messages`, and until when they may be sent."""

    number: int
    campaign: int
    messages: int
    expires_at: datetime | None = None


@dataclass(eq=False)
class Job:
    """One mail job. `history` holds every state that it was in."""

    number: int
    release: ReleaseModel
    kind: str
    state: MailJobState
    first: int | None = None
    last: int | None = None
    next: int | None = None
    parent: Job | None = None
    recovers: Job | None = None
    priority: int = 0
    queued_at: datetime | None = None
    asked: MailJobState | None = None
    """What the operator asked for and it does when it leaves its present state."""
    heartbeat_at: datetime | None = None
    has_session: bool = False
    """The session that holds it is open: its mailcaster lives, or its host has not noticed its end."""
    recorded: int = 0
    """Messages whose first result was written under it, but for those of expiry."""
    history: list[MailJobState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history.append(self.state)

    def enter(self, state: MailJobState) -> None:
        """Go to `state`, along a way that the spec knows."""
        assert state in TRANSITIONS[self.state], f"mail job {self.number}: {self.state} → {state}"
        self.state = state
        self.history.append(state)

    @property
    def numbers(self) -> range:
        """The messages that it covers."""
        assert self.first is not None
        assert self.last is not None
        return range(self.first, self.last + 1)

    @property
    def is_live(self) -> bool:
        """A mailcaster has it in hand: its writes are taken."""
        return self.state in LIVE


@dataclass(frozen=True)
class Work:
    """What a mailcaster should be given: the mail job that it comes from, and the range."""

    source: Job
    how: str
    first: int
    last: int


class QueueModel:
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

    # What mailcasters are given ---------------------------------------------------------------------------------

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
                if self._is_too_old(job, mailcaster.job_recovery_expire_in_hours):
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
        if self._is_too_old(job, mailcaster.job_recovery_expire_in_hours):
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

    def _is_too_old(self, job: Job, expire_in_hours: float) -> bool:
        assert job.queued_at is not None
        if self.now - job.queued_at > timedelta(hours=expire_in_hours):
            return True
        return job.release.expires_at is not None and self.now >= job.release.expires_at

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
            and self._is_too_old(job, expire_in_hours)
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

"""Hypothesis does things to the queue in PostgreSQL and to the model of it, and compares the two after every step.

Mailcasters of every type come for work, send, beat their hearts, finish, fail, are killed, or are suspended and come
back; releases, campaigns and time go on beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection, text

from mail_orchestration.dispatch.campaigns import delete_campaign, pause_campaign, resume_campaign
from mail_orchestration.dispatch.claims import Claim, HeldClaim, claim_chosen, claim_next, unsent_messages
from mail_orchestration.dispatch.mail_jobs import queue_mail_job, transition
from mail_orchestration.dispatch.operating import Operated, Signs
from mail_orchestration.dispatch.releases import register_campaign
from mail_orchestration.dispatch.repeating import repeatable_messages
from mail_orchestration.dispatch.restarting import mail_jobs_to_restart, restart_mail_job
from mail_orchestration.dispatch.stopping import end_stopping_of_dead, mail_jobs_to_stop, stop_mail_job
from mail_orchestration.feedback.books import books
from mail_orchestration.feedback.result_rows import result_columns
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import ClaimLost, DatabaseUnavailable, NotFound, StateConflict
from mail_orchestration.kernel.model import DeliveryResult, Outcome
from mail_orchestration.kernel.settings import DispatcherSettings, MailcasterParameters
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import ENDED, MailJobState
from tests.integration.dispatch_rows import DAY, HANG_AFTER_S, NOW, mailcaster
from tests.integration.queue_model import Job, QueueModel, ReleaseModel, Work

_S = MailJobState
SMALL_BELOW = 10
CAMPAIGNS = ("spring", "autumn")
DISPATCHER = DispatcherSettings(heartbeat_seconds=10, hang_after_seconds=HANG_AFTER_S)
HANG_AFTER = timedelta(seconds=HANG_AFTER_S)
OUTCOMES = (Outcome.ACCEPTED, Outcome.UNCERTAIN, Outcome.DEFERRED, Outcome.REJECTED, Outcome.STOPPED)
MOST_ATTEMPTS = (3, 1)
"""Of each campaign: one sends uncertain messages again, one holds them for the operator."""

FLEET = {
    each.name: each
    for each in (
        mailcaster(
            "small-only", small_audience_threshold=10, small_job_only=True, min_job_size=1, max_job_size=9
        ),
        mailcaster(
            "small-first",
            small_audience_threshold=10,
            min_job_size=3,
            max_job_size=10,
            percentage_job_size=20,
        ),
        mailcaster(
            "large-first",
            small_audience_threshold=10,
            min_job_size=5,
            max_job_size=20,
            percentage_job_size=30,
        ),
        mailcaster(
            "large-only", small_audience_threshold=10, min_job_size=8, max_job_size=25, large_job_only=True
        ),
        mailcaster(
            "patient",
            small_audience_threshold=10,
            min_job_size=4,
            automatic_mail_job_recovery=False,
            max_job_size=30,
            percentage_job_size=50,
        ),
        mailcaster(
            "strict",
            small_audience_threshold=10,
            min_job_size=2,
            max_job_size=15,
            job_recovery_expire_in_hours=3,
        ),
    )
}
SWEEPERS = [
    mailcaster("last-large", small_audience_threshold=10, min_job_size=5, max_job_size=40),
    mailcaster(
        "last-small", small_audience_threshold=10, small_job_only=True, min_job_size=1, max_job_size=9
    ),
]
"""They end what is left, at the end of every run."""

mailcasters = st.sampled_from(list(FLEET))
picks = st.integers(0, 47)


@dataclass(eq=False)
class Holder:
    """A mailcaster with a claim, which it may have lost without knowing."""

    claim: Claim
    held: HeldClaim
    job: Job


class QueueMachine(RuleBasedStateMachine):
    """One run: an installation of its own, with two campaigns."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.holders: list[Holder] = []
        self.fences: dict[int, int] = {}
        self.known_fences: dict[int, int] = {}
        self.releases: list[ReleaseModel] = []
        self.seen: dict[int, object] = {}
        self.now = NOW
        self.model = QueueModel(NOW, hang_after=HANG_AFTER, silent_after=timedelta(seconds=20))
        with database.begin() as connection:
            connection.execute(text("SELECT ensure_day_partitions(:day)"), {"day": DAY})
            self.installation_id = connection.scalar(
                text(
                    "INSERT INTO installation (name) SELECT 'run ' || count(*) FROM installation "
                    "RETURNING installation_id"
                )
            )
            self.campaigns = list(
                connection.scalars(
                    text(
                        "INSERT INTO campaign (installation_id, name, digest) "
                        "SELECT :id, name, '' FROM unnest(CAST(:names AS text[])) AS name RETURNING campaign_id"
                    ),
                    {"id": self.installation_id, "names": list(CAMPAIGNS)},
                )
            )
        self.model.campaigns = dict.fromkeys(self.campaigns, "live")

    # Releases and campaigns ---------------------------------------------------------------------------------------

    @initialize(small=st.integers(1, 9), large=st.integers(10, 60))
    def begin(self, small: int, large: int) -> None:
        """Something to do, so that short runs show something too."""
        for messages in (small, large):
            self.release(0, messages, 0, 0, None, _S.QUEUED)

    @rule(
        campaign=st.integers(0, 1),
        messages=st.one_of(st.integers(10, 60), st.integers(0, 9)),
        bypassed=st.integers(0, 3),
        priority=st.sampled_from([0, 0, 0, 1]),
        expires_in_h=st.sampled_from([None, None, None, 1, 5, 60]),
        becomes=st.sampled_from([_S.QUEUED] * 6 + [_S.QUEUING, _S.FAILED]),
    )
    @precondition(lambda self: len(self.releases) < 6)
    def release(
        self,
        campaign: int,
        messages: int,
        bypassed: int,
        priority: int,
        expires_in_h: int | None,
        becomes: MailJobState,
    ) -> None:
        self._revive(campaign)
        expires_at = None if expires_in_h is None else self.now + timedelta(hours=expires_in_h)
        campaign_id = self.campaigns[campaign]
        kind = "small" if messages + bypassed < SMALL_BELOW else "parent"
        number = self._insert_release(campaign_id, kind, messages, bypassed, priority, expires_at)
        release = ReleaseModel(number, campaign_id, messages, expires_at)
        job = Job(number=number, release=release, kind=kind, state=_S.QUEUING, priority=priority)
        self.releases.append(release)
        self.model.jobs[number] = job
        if becomes is _S.QUEUED:
            self._queue(job)
        elif becomes is _S.FAILED:
            with self.database.begin() as connection:
                transition(connection, number, _S.QUEUING, _S.FAILED, "a template is broken", self.now)
            job.enter(_S.FAILED)

    @rule(pick=picks)
    @precondition(lambda self: self._in(_S.QUEUING))
    def queue(self, pick: int) -> None:
        self._queue(self._pick(pick, _S.QUEUING))

    def _queue(self, job: Job) -> None:
        with self.database.begin() as connection:
            entered = queue_mail_job(connection, job.number, self.now)
        if not job.release.messages:
            job.enter(_S.STOPPED)
        else:
            job.enter(job.asked or (_S.QUEUED if job.kind == "small" else _S.P_QUEUED))
            job.asked = None
            job.first, job.last, job.queued_at = 1, job.release.messages, self.now
            job.next = 1 if job.kind == "parent" else None
        assert entered is job.state

    @rule(
        campaign=st.integers(0, 1),
        change=st.sampled_from(["pause", "pause", "resume", "resume", "resume", "delete"]),
    )
    def change_campaign(self, campaign: int, change: str) -> None:
        match change:
            case "pause":
                self._pause(campaign)
            case "resume":
                self._resume(campaign)
            case _:
                self._delete(campaign)

    def _pause(self, campaign: int) -> None:
        number = self.campaigns[campaign]
        with (
            self._conflict_if(self.model.campaigns[number] == "deleted"),
            self.database.begin() as connection,
        ):
            pause_campaign(connection, self.installation_id, CAMPAIGNS[campaign])
            self.model.campaigns[number] = "paused"

    def _resume(self, campaign: int) -> None:
        number = self.campaigns[campaign]
        with (
            self._conflict_if(self.model.campaigns[number] == "deleted"),
            self.database.begin() as connection,
        ):
            resume_campaign(connection, self.installation_id, CAMPAIGNS[campaign])
            self.model.campaigns[number] = "live"

    def _delete(self, campaign: int) -> None:
        """What waits is STOPPED. While it is paused and holds something that has begun it is kept."""
        number = self.campaigns[campaign]
        is_kept = self.model.campaigns[number] == "paused" and bool(self.model.begun(number))
        with self._conflict_if(is_kept), self.database.begin() as connection:
            change = delete_campaign(connection, self.installation_id, CAMPAIGNS[campaign], self.now)
            self.model.campaigns[number] = "deleted"
            assert list(change.stopped) == [job.number for job in self.model.waiting(number)]
            for job in self.model.waiting(number):
                job.enter(_S.STOPPED)

    def _revive(self, campaign: int) -> None:
        """A release makes a campaign known again that was deleted; a paused one stays paused."""
        with self.database.begin() as connection:
            number, state = register_campaign(
                connection,
                self.installation_id,
                name=CAMPAIGNS[campaign],
                state="live",
                digest=b"",
                now=self.now,
            )
        assert number == self.campaigns[campaign]
        if self.model.campaigns[number] == "deleted":
            self.model.campaigns[number] = "live"
        assert state == self.model.campaigns[number]

    # Time ---------------------------------------------------------------------------------------------------------

    @rule(
        seconds=st.sampled_from([1, 600, 3600, HANG_AFTER_S, HANG_AFTER_S + 1, 4 * 3600, 97 * 3600]),
        hearts_beat=st.booleans(),
    )
    def time_passes(self, seconds: float, hearts_beat: bool) -> None:
        self.now += timedelta(seconds=seconds)
        self.model.now = self.now
        for holder in self.holders if hearts_beat else ():
            if holder.job.is_live:
                self._beat(holder)

    # Mailcasters look for work ------------------------------------------------------------------------------------

    @rule(who=mailcasters, dies=st.sampled_from([False, False, False, True]))
    def claim(self, who: str, dies: bool) -> None:
        self._claim(FLEET[who], holds=not dies)

    def _claim(self, who: MailcasterParameters, *, holds: bool = True) -> Holder | None:
        return self._take(self.model.next_work(who), self._claim_next(who), who, holds=holds)

    @rule(who=mailcasters)
    @precondition(lambda self: self._in(_S.QUEUED, _S.P_QUEUED, _S.P_ASSIGNING, _S.RECOVERING))
    def claim_what_waits(self, who: str) -> None:
        self._claim(FLEET[who])

    @rule(who=mailcasters, picked=st.sets(picks, min_size=1, max_size=3))
    @precondition(lambda self: self.model.jobs)
    def claim_beside_others(self, who: str, picked: set[int]) -> None:
        """Others have rows in hand at this moment: a claim that commits, a flush of results, a stop."""
        jobs = list(self.model.jobs.values())
        locked = {jobs[pick % len(jobs)] for pick in picked}
        with self.database.begin() as another:
            another.execute(
                text("SELECT FROM mail_job WHERE mail_job_id = ANY(:ids) FOR NO KEY UPDATE"),
                {"ids": [job.number for job in locked]},
            )
            work, claim = self.model.next_work(FLEET[who], locked), self._claim_next(FLEET[who])
        self._take(work, claim, FLEET[who])

    @rule(who=mailcasters, pick=picks)
    @precondition(lambda self: self.model.jobs)
    def choose(self, who: str, pick: int) -> None:
        """The operator hands a mailcaster one mail job, in turn or not."""
        job = list(self.model.jobs.values())[pick % len(self.model.jobs)]
        claim = claim_chosen(self.database, self.installation_id, job.number, FLEET[who], now=self.now)
        self._take(self.model.chosen_work(job, FLEET[who]), claim, FLEET[who])

    def _claim_next(self, who: MailcasterParameters) -> Claim | None:
        return claim_next(self.database, self.installation_id, who, now=self.now, hang_after_s=HANG_AFTER_S)

    def _take(
        self, work: Work | None, claim: Claim | None, who: MailcasterParameters, *, holds: bool = True
    ) -> Holder | None:
        """The claim that was got is the one that the model expects; it is held unless the mailcaster dies first."""
        assert (claim is None) == (work is None), f"{who.name} got {claim}, not {work}"
        if claim is None or work is None:
            return None
        assert claim.mail_job_id == work.source.number or claim.mail_job_id not in self.model.jobs
        job = self.model.take(work, claim.mail_job_id)
        before = 0 if job.recovers is None else self.fences.get(job.recovers.number, 0)
        assert claim.fence > before, "a fence was not raised"
        assert claim.mail_job_id not in self.fences, "a mail job is taken twice"
        self.fences[claim.mail_job_id] = claim.fence
        found = (claim.mail_job_id, claim.kind, claim.first_message, claim.last_message, claim.mailcaster)
        assert found == (job.number, job.kind, job.first, job.last, who.name)
        assert claim.parent_id == (job.parent and job.parent.number)
        assert claim.recovers_id == (job.recovers and job.recovers.number)
        if not holds:
            return None
        holder = Holder(claim, HeldClaim(self.database, claim), job)
        holder.held.__enter__()
        job.has_session = True
        self.holders.append(holder)
        if len(self.holders) > 8:
            self._leave(next((each for each in self.holders if not each.job.is_live), self.holders[0]))
        return holder

    # Mailcasters work ---------------------------------------------------------------------------------------------

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
    def beat(self, pick: int) -> None:
        self._beat(self._holder(pick))

    def _beat(self, holder: Holder) -> None:
        with self._refused_unless(holder.job.is_live):
            assert holder.held.heartbeat(self.now) is (holder.job.state is _S.STOPPING)
            holder.job.heartbeat_at = self.now

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

    # Mailcasters go -----------------------------------------------------------------------------------------------

    @rule(pick=picks)
    @precondition(lambda self: self.holders)
    def be_killed(self, pick: int) -> None:
        """Its session goes, and time until its mail job hangs."""
        self._leave(self._holder(pick))
        self.time_passes(HANG_AFTER_S + 1, hearts_beat=True)

    @rule(pick=picks)
    @precondition(lambda self: self.holders)
    def leave(self, pick: int) -> None:
        """Its session goes, and it says nothing: an orderly end, or a crash that the server notices at once."""
        self._leave(self._holder(pick))

    def _leave(self, holder: Holder) -> None:
        holder.held.__exit__(None, None, None)
        holder.job.has_session = False
        self.holders.remove(holder)

    @rule(pick=picks)
    @precondition(lambda self: self.holders)
    def lose_the_connection(self, pick: int) -> None:
        """The server drops its session. It lives: the next write fails, and the one after that connects anew."""
        holder = self._holder(pick)
        assert holder.held._connection is not None
        driver: Any = holder.held._connection.connection.driver_connection
        self._execute("SELECT pg_terminate_backend(:pid, 5000)", pid=driver.info.backend_pid)
        holder.job.has_session = False
        with suppress(DatabaseUnavailable):
            holder.held.heartbeat(self.now)
            raise AssertionError("a heartbeat without a connection")
        try:
            holder.held.heartbeat(self.now)
        except ClaimLost:
            assert not holder.job.is_live
        else:
            assert holder.job.is_live
            holder.job.heartbeat_at = self.now
        holder.job.has_session = True

    # The operator -------------------------------------------------------------------------------------------------

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

    # What must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def the_database_is_as_the_model(self) -> None:
        with self.database.begin() as connection:
            of_releases = {"release_ids": [release.number for release in self.releases]}
            rows = connection.execute(_ALL_MAIL_JOBS, of_releases).all()
            results: dict[tuple[int, int], list[str]] = {}
            for release, number, outcome in connection.execute(_ALL_RESULTS, of_releases):
                results.setdefault((release, number), []).append(outcome)
            for number in self._changed(rows, results):
                counted = books(connection, number)
                assert counted.balances, counted.explanation
        assert {row.mail_job_id for row in rows} == set(self.model.jobs)
        for row in rows:
            self._compare(row, self.model.jobs[row.mail_job_id])
        assert results == self.model.results
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
        for holder in list(self.holders):
            self._leave(holder)
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

    # A run that was made up by hand -------------------------------------------------------------------------------

    def go_every_way(self) -> None:
        """What leads along every way between two states, but for those of a dedup that is cut off."""
        small, large = FLEET["small-only"], FLEET["large-first"]
        self._released(0)
        self._released(5, becomes=_S.FAILED)
        for messages in (5, 20):
            self._released(messages, campaign=1)
        self._delete(1)

        job = self._released(5, becomes=_S.QUEUING)
        self._stop(job)
        self._queue(job)
        self._restart(job, False, None)
        self._stop(job)
        self._restart(job, False, None)
        holder = self._claimed(small)
        self._give_up(holder)
        self._leave(holder)
        self._restart(job, True, None)
        self._stop(job)
        self._restart(job, False, None)
        holder = self._claimed(small)
        self._stop(job)
        self._restart(job, False, None)
        self._let_go(holder)
        self._leave(holder)
        self.time_passes(97 * 3600, hearts_beat=False)
        assert self._claim(small) is None

        job = self._released(5)
        self._leave(self._claimed(small))
        self.time_passes(HANG_AFTER_S + 1, hearts_beat=False)
        holder = self._claimed(small)
        self._stop(job)
        self._let_go(holder)
        self._leave(holder)
        self._restart(job, False, None)
        self._send_all_and_finish(self._claimed(small), Outcome.ACCEPTED)

        parent = self._released(20)
        self._stop(parent)
        self._restart(parent, False, None)
        holder = self._claimed(large)
        self._give_up(holder)
        self._leave(holder)
        self._restart(parent, True, None)
        holder = self._claimed(large)
        self._stop(parent)
        self._restart(parent, False, None)
        self._stop(parent)
        self._send_all_and_finish(holder, Outcome.ACCEPTED)

        for is_stopped in (False, True):
            parent = self._released(24)
            holders = [self._claimed(large)]
            self._stop(parent)
            self._restart(parent, False, None)
            self._send_all_and_finish(holders[0], Outcome.ACCEPTED)
            holders += [self._claimed(large) for _ in range(4)]
            self._give_up(holders[1])
            if is_stopped:
                self._stop(parent)
            for holder in holders[2:]:
                self._send_all_and_finish(holder, Outcome.ACCEPTED)
            for holder in holders:
                self._leave(holder)
            self._restart(parent, True, None)
            self._send_all_and_finish(self._claimed(large), Outcome.ACCEPTED)

    def _released(self, messages: int, campaign: int = 0, becomes: MailJobState = _S.QUEUED) -> Job:
        self.release(campaign, messages, 0, 0, None, becomes)
        return self.model.jobs[self.releases[-1].number]

    def _claimed(self, who: MailcasterParameters) -> Holder:
        self.the_database_is_as_the_model()
        holder = self._claim(who)
        assert holder is not None
        return holder

    # Means --------------------------------------------------------------------------------------------------------

    def _in(self, *states: MailJobState) -> list[Job]:
        return [job for job in self.model.jobs.values() if job.state in states]

    def _pick(self, pick: int, *states: MailJobState) -> Job:
        found = self._in(*states)
        return found[pick % len(found)]

    def _mostly(self, pick: int, *states: MailJobState) -> Job:
        """One in these states if there is any; at times another one all the same."""
        found = self._in(*states) if pick % 4 else []
        among = found or list(self.model.jobs.values())
        return among[pick // 4 % len(among)]

    def _holder(self, pick: int) -> Holder:
        return self.holders[pick % len(self.holders)]

    @contextmanager
    def _refused_unless(self, allowed: bool) -> Iterator[None]:
        """What the block does is refused with ClaimLost, unless it is allowed."""
        try:
            yield
        except ClaimLost:
            assert not allowed, "refused, although the claim holds"
        else:
            assert allowed, "a lost claim was obeyed"

    @contextmanager
    def _conflict_if(self, refused: bool) -> Iterator[None]:
        try:
            yield
        except StateConflict:
            assert refused
        else:
            assert not refused

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
        with self.database.begin() as connection:
            return connection.execute(STATEMENTS["append_results"], binds).rowcount

    def _execute(self, statement: str, **binds: object) -> None:
        with self.database.begin() as connection:
            connection.execute(text(statement), binds)

    def _insert_release(
        self, campaign_id: int, kind: str, messages: int, bypassed: int, priority: int, expires_at: object
    ) -> int:
        """A release that is resolved and assembled, its mail job QUEUING; the last recipients are bypassed."""
        with self.database.begin() as connection:
            created = connection.execute(
                STATEMENTS["create_mail_job"],
                {"installation_id": self.installation_id, "priority": priority, "now": self.now},
            )
            number = int(created.scalar_one())
            connection.execute(
                _INSERT_RELEASE,
                {
                    "id": number,
                    "campaign_id": campaign_id,
                    "kind": kind,
                    "messages": messages,
                    "bypassed": bypassed,
                    "now": self.now,
                    "day": DAY,
                    "expires_at": expires_at,
                },
            )
        return number


_ALL_MAIL_JOBS = text(
    "SELECT *, accepted + deferred + rejected + uncertain + stopped AS figures FROM mail_job "
    "WHERE release_id = ANY(:release_ids)"
)
_ALL_RESULTS = text(
    "SELECT release_id, message_no, outcome FROM result WHERE release_id = ANY(:release_ids) ORDER BY result_no"
)
_INSERT_RELEASE = text(
    """
    WITH binds AS (
        SELECT CAST(:id AS bigint) AS id, CAST(:messages AS integer) AS messages,
            CAST(:bypassed AS integer) AS bypassed, CAST(:now AS timestamptz) AS now, CAST(:day AS date) AS day
    ),
    kind AS (
        UPDATE mail_job SET kind = CAST(:kind AS mail_job_kind) FROM binds WHERE mail_job_id = binds.id
    ),
    release AS (
        INSERT INTO release (release_id, campaign_id, released_at, released_on, expires_at, files, digest,
            audience_ids, resolved_at, audience_rows, duplicates, recipient_count, assembled_up_to, assembled_at,
            message_count, bypassed_count)
        SELECT id, CAST(:campaign_id AS integer), now, day, CAST(:expires_at AS timestamptz), '{}', '', '{}', now,
            messages + bypassed, 0, messages + bypassed, messages + bypassed, now, messages, bypassed
        FROM binds
    ),
    recipients AS (
        INSERT INTO recipient (released_on, release_id, recipient_no, audience_id, contact_id, bypass_reason)
        SELECT day, id, n, 1, n, CASE WHEN n > messages THEN 'manual' END
        FROM binds, generate_series(1, messages + bypassed) AS n
    )
    INSERT INTO assembled_message
        (released_on, release_id, message_no, recipient_no, contact_id, size, address, message)
    SELECT day, id, n, n, n, 5, 'r' || n || '@example.org', 'bytes'
    FROM binds, generate_series(1, messages) AS n
    """
)

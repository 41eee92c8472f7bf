"""Mailcasters come for work, in turn or chosen by hand, beside others; they beat, go, or lose their connection."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from sqlalchemy import text

from mail_orchestration.dispatch.claims import Claim, HeldClaim, claim_chosen, claim_next
from mail_orchestration.kernel.errors import ClaimLost, DatabaseUnavailable
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import HANG_AFTER_S
from tests.integration.queue_model.fleet import FLEET
from tests.integration.queue_model.jobs import Work
from tests.integration.queue_model.releases import WithReleases
from tests.integration.queue_model.world import Holder, picks

_S = MailJobState

mailcasters = st.sampled_from(list(FLEET))


class WithClaims(WithReleases):
    """Who holds what, from the claim until its session is gone."""

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

    def _holder(self, pick: int) -> Holder:
        return self.holders[pick % len(self.holders)]

    @rule(pick=picks)
    @precondition(lambda self: self.holders)
    def beat(self, pick: int) -> None:
        self._beat(self._holder(pick))

    def _beat(self, holder: Holder) -> None:
        with self._refused_unless(holder.job.is_live):
            assert holder.held.heartbeat(self.now) is (holder.job.state is _S.STOPPING)
            holder.job.heartbeat_at = self.now

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

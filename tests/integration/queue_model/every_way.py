"""A run that was made up by hand, along every way between two states."""

from __future__ import annotations

from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import HANG_AFTER_S
from tests.integration.queue_model.fleet import FLEET
from tests.integration.queue_model.jobs import Job
from tests.integration.queue_model.machine import QueueMachine
from tests.integration.queue_model.world import Holder

_S = MailJobState


class EveryWay(QueueMachine):
    """`EveryWay(database).go()`."""

    def go(self) -> None:
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

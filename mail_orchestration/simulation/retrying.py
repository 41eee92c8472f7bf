"""Deferred messages of one recipient domain, attempt by attempt, as the policy for loose mails has it (spec 6.3)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from mail_orchestration.dispatch.retry_policy import RetryPolicy, next_step
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.loose_mail_states import LooseMailKind
from mail_orchestration.simulation.scenario import Failures

_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Ended:
    """Messages that have come to their end."""

    accepted: float = 0.0
    rejected: float = 0.0
    dead: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.accepted + self.rejected + self.dead


def pauses(policy: RetryPolicy) -> list[float]:
    """Seconds after each deferred attempt until the next; after the last one there is none, but a dead letter."""
    found: list[float] = []
    deferred = DeliveryResult(1, 1, Outcome.DEFERRED, 450, None, None, "relay", _MOMENT)
    for attempts_before in range(policy.most_attempts):
        due_at = next_step(LooseMailKind.RETRY, deferred, attempts_before, policy).due_at
        if due_at is None:
            break
        found.append((due_at - _MOMENT) / timedelta(seconds=1))
    return found


@dataclass(slots=True)
class Retries:
    """What one domain, or group of domains, deferred."""

    failures: Failures
    pauses: list[float]
    waiting: list[deque[tuple[float, float]]] = field(init=False)
    """By attempts made, less one: (due at, messages), in order."""
    due: list[float] = field(init=False)
    not_due: float = 0.0
    """Messages among `waiting`."""

    def __post_init__(self) -> None:
        self.waiting = [deque() for _ in self.pauses]
        self.due = [0.0 for _ in self.pauses]

    @property
    def left(self) -> float:
        """Messages that will be tried again, due or not."""
        return sum(self.due) + self.not_due

    def next_at(self) -> float | None:
        """When the next ones are due."""
        return min((cohorts[0][0] for cohorts in self.waiting if cohorts), default=None)

    def become_due(self, now: float) -> float:
        """How many are due now."""
        for attempts, cohorts in enumerate(self.waiting):
            while cohorts and cohorts[0][0] <= now:
                count = cohorts.popleft()[1]
                self.not_due -= count
                self.due[attempts] += count
        return sum(self.due)

    def attempted(self, fresh: float, again: float, now: float, ended: Ended) -> None:
        """So many first attempts, and so many of those that were due, were made `now`."""
        self._attempted(0, fresh, now, ended)
        share = min(1.0, again / sum(self.due)) if again > 0 else 0.0
        if share:
            tried, self.due = self.due, [count * (1 - share) for count in self.due]
            for attempts, count in enumerate(tried, start=1):
                self._attempted(attempts, count * share, now, ended)

    def _attempted(self, attempts_before: int, messages: float, now: float, ended: Ended) -> None:
        if messages <= 0:
            return
        share = self.failures.deferred_again if attempts_before else self.failures.deferred
        deferred, rejected = messages * share, messages * self.failures.rejected
        ended.rejected += rejected
        ended.accepted += messages - deferred - rejected
        if attempts_before >= len(self.pauses):
            ended.dead += deferred
        elif deferred:
            self.waiting[attempts_before].append((now + self.pauses[attempts_before], deferred))
            self.not_due += deferred

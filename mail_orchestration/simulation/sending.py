"""From the queue to the last message's end: first attempts, retries, what is left at each moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mail_orchestration.dispatch.flow import FURTHEST_S, STEPS, Flow
from mail_orchestration.simulation.retrying import Ended, Retries
from mail_orchestration.simulation.scenario import Failures

CURVE_POINTS = 200
LAST = 0.5
"""With less than this of a message left everything has its end: what is reckoned with are expected numbers."""
_SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The queue at one moment, in messages."""

    seconds: float
    """From the beginning."""
    unsent: int
    """In the queue, without an attempt."""
    deferred: int
    """That wait for another attempt."""
    accepted: int
    rejected: int
    dead: int


@dataclass(slots=True)
class Sent:
    """What became of all messages, and when."""

    total: float
    ended: Ended = field(default_factory=Ended)
    points: list[Point] = field(default_factory=list)
    share_at: dict[float, float] = field(default_factory=dict)
    """Share of all that have their end → seconds."""
    first_attempts_s: float | None = None
    """When the last first attempt was made; None: not within a year."""
    over_s: float | None = None
    held_back: Counter[str] = field(default_factory=Counter)
    """Steps, by what held the first attempts back."""
    held_back_again: Counter[str] = field(default_factory=Counter)
    """The same for retries, after that."""
    steps: int = 0


def send(
    flow: Flow,
    messages: Mapping[str, int],
    failures: Mapping[str, Failures],
    pauses: Sequence[float],
    *,
    closed_for: Callable[[float], float],
) -> Sent:
    """Let all `messages`, by domain or group, through `flow`; moments are seconds from its beginning."""
    return _Sending(flow, messages, failures, pauses, closed_for).run()


class _Sending:
    def __init__(
        self,
        flow: Flow,
        messages: Mapping[str, int],
        failures: Mapping[str, Failures],
        pauses: Sequence[float],
        closed_for: Callable[[float], float],
    ) -> None:
        self._flow, self._closed_for = flow, closed_for
        self._fresh = {name: float(count) for name, count in messages.items() if count}
        self._retries = {name: Retries(failures[name], list(pauses)) for name in self._fresh}
        self._sent = Sent(total=float(sum(messages.values())))
        self._every = 1
        self._now = 0.0

    def run(self) -> Sent:
        sent = self._sent
        self._note()
        while self._now < FURTHEST_S:
            if sent.total - sent.ended.total < LAST:
                sent.ended.accepted += sent.total - sent.ended.total
                sent.over_s = self._now
                for share in _SHARES:
                    sent.share_at.setdefault(share, self._now)
                break
            sent.steps += 1
            if (closed_s := self._closed_for(self._now)) > 0:
                self._pass("send window", closed_s)
                continue
            due = {name: retries.become_due(self._now) for name, retries in self._retries.items()}
            if not self._fresh and not any(due.values()):
                next_s = min(at for each in self._retries.values() if (at := each.next_at()) is not None)
                self._pass("retry_after_minutes", next_s - self._now)
                continue
            self._step({name: count for name, count in due.items() if count})
        self._note(is_last=True)
        return sent

    def _step(self, due: Mapping[str, float]) -> None:
        before, began = self._sent.ended.total, self._now
        through = self._flow.through(self._fresh, self._now, again=due)
        self._now += self._flow.step_s * through.share_of_step
        for name, count in through.sent.items():
            again = min(count, due.get(name, 0.0))
            fresh = count - again
            if name in self._fresh:
                self._fresh[name] -= fresh
                if self._fresh[name] < 1e-9 * self._sent.total:
                    fresh += self._fresh.pop(name)
            self._retries[name].attempted(fresh, again, self._now, self._sent.ended)
        held_back = (
            self._sent.held_back if self._sent.first_attempts_s is None else self._sent.held_back_again
        )
        held_back[through.held_back_by] += 1
        if not self._fresh and self._sent.first_attempts_s is None:
            self._sent.first_attempts_s = self._now
        self._note_shares(before, began)
        self._note()

    def _pass(self, why: str, seconds: float) -> None:
        """Nothing can be sent for a while."""
        held_back = self._sent.held_back if self._fresh else self._sent.held_back_again
        held_back[why] += (
            max(1, round(min(seconds, FURTHEST_S) / self._flow.step_s)) if self._fresh else STEPS
        )
        self._now += seconds
        self._note()

    def _note_shares(self, before: float, began: float) -> None:
        after, total = self._sent.ended.total, self._sent.total
        for share in _SHARES:
            if share not in self._sent.share_at and after >= share * total:
                part = (share * total - before) / (after - before) if after > before else 1.0
                self._sent.share_at[share] = began + (self._now - began) * min(1.0, max(0.0, part))

    def _note(self, *, is_last: bool = False) -> None:
        """A point of the curve; of every second one only, once there are too many."""
        points = self._sent.points
        if not is_last and self._sent.steps % self._every:
            return
        ended = self._sent.ended
        rejected, dead = round(ended.rejected), round(ended.dead)
        unsent = round(sum(self._fresh.values()))
        deferred = (
            round(sum(each.left for each in self._retries.values())) if self._sent.over_s is None else 0
        )
        accepted = round(self._sent.total) - rejected - dead - unsent - deferred
        points.append(
            Point(
                seconds=self._now,
                unsent=unsent,
                deferred=deferred,
                accepted=accepted,
                rejected=rejected,
                dead=dead,
            )
        )
        if len(points) > 2 * CURVE_POINTS:
            del points[1::2]
            self._every *= 2

"""Which relay a connection goes to: shares by weight, back-off after failures, fail-over (spec 6.8)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from functools import partial

from mail_orchestration.egress.faults import without_addresses
from mail_orchestration.egress.gate import Gate
from mail_orchestration.egress.idle_sessions import IdleSessions
from mail_orchestration.egress.ports import Scope
from mail_orchestration.egress.relay import Relay
from mail_orchestration.egress.setup import tls_context
from mail_orchestration.egress.throttle import Share, Throttle
from mail_orchestration.kernel.errors import RelayUnreachable

log = logging.getLogger(__name__)


class Lane:
    """One relay as a delivery sees it. Raises BadSettings when its `ca_file` cannot be read."""

    def __init__(self, relay: Relay, gate: Gate | None, share: Share) -> None:
        self.relay = relay
        self.context = tls_context(relay)
        self.gate = gate
        self.share = share
        self.held = 0
        """Connections that are open or being opened."""
        self.in_session = 0
        """Connections past their set-up."""
        self.failures = 0
        """Back-offs in a row without a message answered since."""
        self.retry_at = float("-inf")
        self.last_error: str | None = None

    def is_open_to_one_more(self, now: float) -> bool:
        """Whether another connection may be opened. A relay that failed is first tried by a single one."""
        if self.gate is not None and self.gate.is_exhausted:
            return False
        return now >= self.retry_at and self.share.has_room and (self.failures == 0 or self.held < 1)

    def load_with(self, more: int) -> float:
        """Connections per weight, were there `more` of them."""
        return (self.held + more) / self.relay.weight


class Lanes:
    """All relays of one delivery. `unreachable` resolves with the error when none is of use for too long."""

    def __init__(
        self,
        relays: Sequence[Relay],
        unreachable_after_s: float,
        throttle: Throttle | None,
        idle: IdleSessions | None,
        connections: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._throttle = throttle
        self._lanes = [_lane(relay, throttle, idle, connections) for relay in relays]
        self._unreachable_after_s = unreachable_after_s
        self._failing_since: float | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._change: asyncio.Future[None] = self._loop.create_future()
        self._will_judge = False
        self._ended = False
        self._may_be_uneven = False
        self._moving = False
        self.opened = 0
        self.unreachable: asyncio.Future[RelayUnreachable] = self._loop.create_future()
        for lane in self._lanes:
            if lane.gate is not None:
                lane.gate.watch(self._changed)

    def look_anew(self) -> None:
        """Other limits may hold than before: a relay asked for less, a connection came free."""
        for lane in self._lanes:
            if lane.gate is None and self._throttle is not None:
                lane.gate = self._throttle.gate_of_relay(lane.relay)
                if lane.gate is not None:
                    lane.gate.watch(self._changed)
        self._changed()

    async def room(self) -> bool:
        """Wait until some relay is open to one more connection; False when the delivery ends.

        Who has no connection takes no message: it would wait in his hands.
        """
        while not self._ended:
            now = self._loop.time()
            if any(lane.is_open_to_one_more(now) for lane in self._lanes):
                return True
            await asyncio.shield(self._change)
        return False

    def acquire(self) -> Lane | None:
        """A relay for one connection; None when there is none now, or the delivery ends."""
        now = self._loop.time()
        open_lanes = [] if self._ended else [lane for lane in self._lanes if lane.is_open_to_one_more(now)]
        if not open_lanes:
            return None
        lane = min(open_lanes, key=lambda lane: lane.load_with(1))
        lane.held += 1
        lane.share.held += 1
        self._moving = False
        return lane

    def release(self, lane: Lane, *, was_leaving: bool = False) -> None:
        """The connection is closed, or its session is idle; `was_leaving`: as `should_leave` asked."""
        lane.held -= 1
        lane.share.held -= 1
        lane.share.leaving -= was_leaving
        self._changed()

    def session_began(self, lane: Lane, *, is_new: bool = True) -> None:
        """A session's set-up succeeded, or an idle one is used again."""
        lane.in_session += 1
        self.opened += is_new

    def session_ended(self, lane: Lane, *, well: bool) -> None:
        """A session that had begun is over; `well`: the relay did not end it in the midst of mail."""
        lane.in_session -= 1
        if well:
            self._failing_since = None

    def answered(self, lane: Lane) -> None:
        """The relay gave its word on a message: it is there."""
        self._failing_since = None
        if lane.failures and self._loop.time() >= lane.retry_at:
            lane.failures = 0
            self._changed()

    def failed(self, lane: Lane, why: str) -> None:
        """The relay could not be used, or said 421: leave it alone for a while."""
        if self._ended:
            return
        now = self._loop.time()
        lane.last_error = why = without_addresses(why)
        if now >= lane.retry_at:
            # Twenty connections that fail together are one failure.
            lane.failures += 1
            pause_s = lane.relay.backoff.seconds(lane.failures, random.random())  # noqa: S311 - no secret: jitter
            lane.retry_at = now + pause_s
            self._reopen(lane)
            log.warning("relay %s: %s; left alone for %.1f s", lane.relay.name, why, pause_s)
        if self._failing_since is None:
            self._failing_since = now
            self._judge_in(self._unreachable_after_s)

    def should_leave(self, lane: Lane) -> bool:
        """Whether the connection that asks is to be closed, because others are to have it. Each asks once only."""
        if not lane.share.is_too_large:
            return False
        lane.share.leaving += 1
        return True

    def should_move(self, lane: Lane) -> bool:
        """Whether a connection of `lane` had better go to another relay, because that one came back."""
        if not self._may_be_uneven or self._moving:
            return False
        now, load = self._loop.time(), lane.load_with(0)
        if any(
            other is not lane and other.is_open_to_one_more(now) and other.load_with(1) < load
            for other in self._lanes
        ):
            # One at a time, or all would leave at once.
            self._moving = True
            return True
        self._may_be_uneven = any(other.failures for other in self._lanes)
        return False

    def end(self) -> None:
        """The delivery ends: whoever waits for a relay is sent away."""
        self._ended = True
        for timer in self._timers:
            timer.cancel()
        self._changed()

    def last_errors(self) -> dict[str, str]:
        """Why each relay that ever failed did so last, by the relay's name."""
        return {lane.relay.name: lane.last_error for lane in self._lanes if lane.last_error is not None}

    def _reopen(self, lane: Lane) -> None:
        # A timer may fire a millisecond early (uvloop's do): look again rather than leave the lane shut.
        left_s = lane.retry_at - self._loop.time()
        if left_s > 0:
            self._call_later(max(left_s, 0.001), lambda: self._reopen(lane))
        else:
            self._changed()

    def _judge(self) -> None:
        self._will_judge = False
        if self._failing_since is None or self._ended or self.unreachable.done():
            return
        left_s = self._failing_since + self._unreachable_after_s - self._loop.time()
        if left_s > 0 or any(lane.in_session for lane in self._lanes):
            self._judge_in(max(left_s, self._unreachable_after_s / 20, 0.01))
            return
        reasons = "; ".join(f"{name}: {why}" for name, why in self.last_errors().items())
        self.unreachable.set_result(
            RelayUnreachable(f"no relay could be reached for {self._unreachable_after_s:g} s ({reasons})")
        )

    def _judge_in(self, seconds: float) -> None:
        if not self._will_judge:
            self._will_judge = True
            self._call_later(seconds, self._judge)

    def _changed(self) -> None:
        self._may_be_uneven = len(self._lanes) > 1
        change, self._change = self._change, self._loop.create_future()
        if not change.done():
            change.set_result(None)

    def _call_later(self, seconds: float, call: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            call()

        timer = self._loop.call_later(seconds, run)
        self._timers.add(timer)


def _lane(relay: Relay, throttle: Throttle | None, idle: IdleSessions | None, connections: int) -> Lane:
    wanted = min(relay.connections, connections)
    if throttle is None:
        nobody_elses = Scope("relay", relay.name)
        return Lane(relay, None, Share(nobody_elses, relay.connections, wanted, relay.connections))
    share = throttle.share_of_relay(relay, wanted)
    if idle is not None:
        share.idle = partial(idle.count, relay.host, relay.port)
        share.leave = partial(idle.leave, relay.host, relay.port)
    return Lane(relay, throttle.gate_of_relay(relay), share)

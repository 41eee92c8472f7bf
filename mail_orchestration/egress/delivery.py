"""Deliver what a source gives over a number of connections, and record what becomes of each message.

The story that calls `deliver` brings the source, the sink and the relays; this room knows no database.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mail_orchestration.egress.connection import Connection
from mail_orchestration.egress.feed import Feed
from mail_orchestration.egress.idle_sessions import IdleSessions
from mail_orchestration.egress.lanes import Lanes
from mail_orchestration.egress.ports import MessageSource, ResultSink, Scope, StillWanted
from mail_orchestration.egress.relay import Relay
from mail_orchestration.egress.reply import Reply
from mail_orchestration.egress.results import Results
from mail_orchestration.egress.throttle import Throttle
from mail_orchestration.egress.verdict import Verdict
from mail_orchestration.kernel.attempts import Outcome, OutgoingMessage, Phase
from mail_orchestration.kernel.clock import utc_now
from mail_orchestration.kernel.errors import BadSettings

__all__ = ["DeliveryReport", "MessageSource", "ResultSink", "StillWanted", "deliver"]

FAILURE_GRACE_S = 30.0
"""How long, after source or sink failed, replies to bodies already sent are still waited for."""


@dataclass(kw_only=True)
class DeliveryReport:
    """What one delivery did. The messages taken are `returned` and those with an outcome, together."""

    outcomes: dict[Outcome, int] = field(default_factory=dict)
    """Durable results, per outcome."""
    connections_opened: int = 0
    """Sessions whose set-up succeeded."""
    returned: int = 0
    """Messages taken from the source that are unsent and have no result."""
    last_relay_errors: dict[str, str] = field(default_factory=dict)
    """Per relay that failed at any time, why it did last. Holds no address and no secret."""


async def deliver(
    source: MessageSource,
    sink: ResultSink,
    relays: Sequence[Relay],
    *,
    connections: int,
    stop: asyncio.Event,
    unreachable_after_s: float = 900.0,
    clock: Callable[[], datetime] = utc_now,
    idle: IdleSessions | None = None,
    may_send: Callable[[], bool] = lambda: True,
    throttle: Throttle | None = None,
    still_wanted: StillWanted | None = None,
    left: Callable[[], float] = lambda: math.inf,
) -> DeliveryReport:
    """Send what `source` gives until it has no more or `stop` is set, `connections` messages at a time.

    `may_send` is asked right before each body: a message to which it says no is unsent, and the delivery is
    expected to be stopped. With `idle` sessions are taken from there and left there; without it each ends with QUIT.
    `throttle` knows the limits that hold for relays and recipient domains; without it there are none. A message that
    waited for its domain's limit for long is sent only if `still_wanted` says so. `left` tells how many more the source
    will give at most: no more than that is asked of a limit that others wait for.

    After `stop` no body is begun; those begun are finished and recorded. Raises RelayUnreachable if no relay
    could be used for `unreachable_after_s` seconds, BadSettings for wrong relays, and whatever source, sink and
    the throttle's source raise. In each case the replies to bodies already sent have been waited for, for at most
    FAILURE_GRACE_S; a message without a result is unsent, but for those whose result the sink refused.
    """
    if not relays:
        raise BadSettings("relays: at least one is needed")
    if connections < 1:
        raise BadSettings("connections: must be 1 or more")
    if len({relay.name for relay in relays}) < len(relays):
        raise BadSettings("relays: two have the same name")
    used = min(connections, sum(relay.connections for relay in relays))
    lanes = Lanes(relays, unreachable_after_s, throttle, idle, used)
    feed = Feed(
        source,
        max(2, used),
        throttle.gate_of_address if throttle else _unlimited,
        still_wanted or _always,
        left,
    )
    if throttle is not None:
        throttle.begin(feed.left)
    results = Results(sink, clock)
    fleet = [
        Connection(
            feed,
            lanes,
            results,
            idle,
            may_send,
            throttle.heard if throttle else _unheard,
            throttle.turned_away if throttle else _nobody_asks,
        )
        for _ in range(used)
    ]
    return await _Delivery(feed, lanes, results, fleet, throttle).run(stop)


class _Delivery:
    def __init__(
        self,
        feed: Feed,
        lanes: Lanes,
        results: Results,
        connections: Sequence[Connection],
        throttle: Throttle | None,
    ) -> None:
        self._feed = feed
        self._lanes = lanes
        self._results = results
        self._connections = connections
        self._throttle = throttle
        self._failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def run(self, stop: asyncio.Event) -> DeliveryReport:
        sending = [asyncio.create_task(connection.run()) for connection in self._connections]
        helping = [
            asyncio.create_task(self._feed.fill()),
            asyncio.create_task(self._end_on(stop)),
            asyncio.create_task(self._end_when_unreachable()),
        ]
        if self._throttle is not None:
            helping.append(asyncio.create_task(self._throttle.failure()))
            helping.append(asyncio.create_task(self._throttle.attend(self._lanes.look_anew)))
        for task in (*sending, *helping):
            task.add_done_callback(self._notice)
        all_sent = asyncio.gather(*sending, return_exceptions=True)
        try:
            either: list[asyncio.Future[Any]] = [all_sent, self._failed]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not all_sent.done():
                await asyncio.wait([all_sent], timeout=FAILURE_GRACE_S)
        finally:
            self._end()
            for task in (*sending, *helping):
                task.cancel()
            await asyncio.gather(*sending, *helping, return_exceptions=True)
        if self._failed.done():
            raise self._failed.result()
        return self._report()

    def _report(self) -> DeliveryReport:
        outcomes = {outcome: count for outcome, count in self._results.durable.items() if count}
        return DeliveryReport(
            outcomes=outcomes,
            connections_opened=self._lanes.opened,
            returned=self._feed.taken - sum(outcomes.values()),
            last_relay_errors=self._lanes.last_errors(),
        )

    async def _end_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._end()

    async def _end_when_unreachable(self) -> None:
        raise await self._lanes.unreachable

    def _end(self) -> None:
        self._feed.end()
        self._lanes.end()
        if self._throttle is not None:
            self._throttle.rest()
        for connection in self._connections:
            connection.interrupt()

    def _notice(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            if not self._failed.done():
                self._failed.set_result(error)
            self._end()


async def _always(_message: OutgoingMessage) -> bool:
    """Without anybody to ask it is sent."""
    return True


def _unlimited(_address: str) -> None:
    """Without a throttle no recipient domain is limited."""


def _unheard(relay: Scope, address: str, verdict: Verdict, reply: Reply, phase: Phase) -> None:
    """Without a throttle nobody asks what relays answer."""


def _nobody_asks(relay: Scope, reply: Reply) -> None:
    """Nor why they begin no session."""

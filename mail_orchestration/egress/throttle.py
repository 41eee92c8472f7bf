"""All limits that one process meets: their gates, its shares of connections, and the tasks that ask the others."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

from mail_orchestration.egress.complaints import Complaints
from mail_orchestration.egress.gate import Gate
from mail_orchestration.egress.ports import Held, Scope, SlotSource
from mail_orchestration.egress.relay import Relay
from mail_orchestration.egress.reply import Reply
from mail_orchestration.egress.verdict import Verdict
from mail_orchestration.kernel.attempts import Phase
from mail_orchestration.kernel.clock import steady_seconds

MOST_DOMAINS = 100_000
"""Of so many recipient domains we remember what they share their limits with."""
MOST_GATES = 10_000
FEW_GATES = 8
"""Up to so many are looked at whenever one of them asks: a relay and a domain ask in one transaction."""
STAND_S, SOONEST_S = 1.0, 0.1
"""How often the others are told what we hold, and how soon again after a complaint."""


@dataclass(slots=True, eq=False)
class Share:
    """This process's connections to one relay."""

    scope: Scope
    most: int
    """That the relay allows to all together."""
    wanted: int
    granted: int
    """How many may be open."""
    held: int = 0
    """Open or being opened in a delivery."""
    leaving: int = 0
    """Those of them that are about to be closed, since others are to have them."""
    idle: Callable[[], int] = int
    """How many are open that nobody uses."""
    leave: Callable[[int], Awaitable[None]] | None = None
    """Close so many of those."""

    @property
    def has_room(self) -> bool:
        """Whether one more may be used."""
        return self.held < self.granted

    @property
    def is_too_large(self) -> bool:
        """Whether one has to be closed that is not about to be."""
        return self.held - self.leaving > self.granted


class Throttle:
    """For one event loop, and one delivery after another: what is at hand goes from one to the next."""

    def __init__(self, source: SlotSource) -> None:
        self._source = source
        self._gates: dict[Scope, Gate] = {}
        self._domains: dict[str, Scope] = {}
        self._unlimited: set[str] = set()
        self._limited: dict[str, Gate] = {}
        """Recipient domains with a limit, as of the last time that we asked how things stand."""
        self._hungry: dict[Scope, Gate] = {}
        self._asking: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[BaseException] | None = None
        self._shares: dict[Scope, Share] = {}
        self._complaints = Complaints()
        self._complained = asyncio.Event()
        self._standing: asyncio.Task[None] | None = None
        self._stood_at = float("-inf")
        self._on_news: Callable[[], None] | None = None
        self._left: Callable[[], float] = _nobody_knows

    def gate_of_relay(self, relay: Relay) -> Gate | None:
        """Where messages to this relay wait; None where it has no limit."""
        scope = self._source.scope_of_relay(relay)
        return self._gate(scope) if self._source.is_limited(scope) else None

    def gate_of_address(self, address: str) -> Gate | None:
        """Where messages to the domain of this address wait; None where it has no limit."""
        domain = address.rpartition("@")[2]
        if domain in self._unlimited:
            return None
        gate = self._limited.get(domain)
        if gate is None:
            scope = self._scope_of_domain(domain)
            if self._source.is_limited(scope):
                gate = self._limited[domain] = self._gate(scope)
            else:
                self._unlimited.add(domain)
        return gate

    def share_of_relay(self, relay: Relay, wanted: int) -> Share:
        """The connections to this relay that we may have open: none before `attend` has asked."""
        scope = self._source.scope_of_relay(relay)
        share = self._shares.setdefault(scope, Share(scope, relay.connections, wanted, 0))
        share.wanted = wanted
        return share

    def heard(self, relay: Scope, address: str, verdict: Verdict, reply: Reply, phase: Phase) -> None:
        """What a relay answered to a message, in answer to the command of `phase`."""
        if verdict is Verdict.ACCEPTED and self._complaints.note_accepted(relay):
            return
        domain = self._scope_of_domain(address.rpartition("@")[2])
        if self._complaints.note(relay, domain, verdict, reply, phase, steady_seconds()):
            self._complained.set()

    def turned_away(self, relay: Scope, reply: Reply) -> None:
        """What a relay said instead of beginning a session."""
        if self._complaints.note_turned_away(relay, reply, steady_seconds()):
            self._complained.set()

    def begin(self, left: Callable[[], float]) -> None:
        """A delivery begins, in which at most `left()` more messages are to come to the gates."""
        self._left = left

    async def attend(self, on_news: Callable[[], None]) -> NoReturn:
        """During a delivery: keep our connections, tell complaints, and say when other limits hold than before."""
        self._on_news = on_news
        while True:
            has_none = any(not share.granted for share in self._shares.values())
            pause_s = SOONEST_S if has_none or self._complained.is_set() else STAND_S
            wait_s = self._stood_at + pause_s - steady_seconds()
            if wait_s > 0:
                if pause_s == STAND_S:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._complained.wait(), wait_s)
                else:
                    await asyncio.sleep(wait_s)
                continue
            if self._standing is None or self._standing.done():
                self._complained.clear()
                self._standing = asyncio.create_task(self._stand())
            # Cut off in the midst, another would overtake it.
            await asyncio.shield(self._standing)

    async def failure(self) -> NoReturn:
        """Raise what the source raises, when it does."""
        self._failed = asyncio.get_running_loop().create_future()
        raise await self._failed

    def rest(self) -> None:
        """A delivery ends: whoever waits is sent away."""
        self._on_news, self._left = None, _nobody_knows
        self._hungry.clear()
        for gate in self._gates.values():
            gate.rest()
        if len(self._gates) > MOST_GATES:
            self._gates = {scope: gate for scope, gate in self._gates.items() if gate.is_in_use}
            self._limited.clear()

    async def close(self) -> None:
        """Give back what is at hand: no delivery follows, and no session is open.

        What the source raises comes through.
        """
        under_way = [task for task in (self._asking, self._standing) if task is not None]
        if under_way:
            await asyncio.wait(under_way)
        unused = [each for gate in self._gates.values() for each in gate.give_up_all()]
        if unused:
            await self._source.take({}, unused)
        if self._shares:
            await self._source.leave()

    def _scope_of_domain(self, domain: str) -> Scope:
        scope = self._domains.get(domain)
        if scope is None:
            if len(self._domains) >= MOST_DOMAINS:
                self._domains.clear()
                self._unlimited.clear()
                self._limited.clear()
            scope = self._domains[domain] = self._source.scope_of_domain(domain)
        return scope

    def _gate(self, scope: Scope) -> Gate:
        gate = self._gates.get(scope)
        if gate is None:
            gate = self._gates[scope] = Gate(scope, self._ask)
        return gate

    async def _stand(self) -> None:
        # As many as may be open now: until the others are asked again none is opened beyond that.
        held = {
            scope: Held(
                most=share.most, wanted=share.wanted, held=max(share.granted, share.held + share.idle())
            )
            for scope, share in self._shares.items()
        }
        standing = await self._source.stand(self._complaints.take(), held)
        self._stood_at = steady_seconds()
        for scope, granted in standing.connections.items():
            share = self._shares[scope]
            share.granted = granted
        self._limited.clear()
        if standing.is_news:
            self._unlimited.clear()
        if self._on_news is not None:
            self._on_news()
        for share in self._shares.values():
            surplus = share.held + share.idle() - share.granted
            if share.leave is not None and surplus > 0 and share.idle():
                await share.leave(surplus)

    def _ask(self, gate: Gate) -> None:
        self._hungry[gate.scope] = gate
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        try:
            while self._hungry:
                # Who asks in the same turn of the loop is served by the same transaction.
                await asyncio.sleep(0)
                hungry, self._hungry = self._hungry, {}
                if hungry and len(self._gates) <= FEW_GATES:
                    now = steady_seconds()
                    hungry |= {scope: gate for scope, gate in self._gates.items() if gate.is_short_soon(now)}
                left = self._left()
                wishes = {scope: wish for scope, gate in hungry.items() if (wish := gate.wish(left))}
                if not wishes:
                    continue
                unused = [each for scope in wishes for each in hungry[scope].done_with()]
                for slice_ in await self._source.take(wishes, unused):
                    hungry[slice_.scope].supply(slice_)
        except Exception as error:
            if self._failed is not None and not self._failed.done():
                self._failed.set_result(error)
        finally:
            self._asking = None


def _nobody_knows() -> float:
    return math.inf

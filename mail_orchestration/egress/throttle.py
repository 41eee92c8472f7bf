"""All limits that one process meets: their gates, and the one task that asks for slots on behalf of them all."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from mail_orchestration.egress.gate import Gate
from mail_orchestration.egress.ports import Scope, SlotSource
from mail_orchestration.egress.relay import Relay

MOST_DOMAINS = 100_000
"""Of so many recipient domains we remember whether they are limited."""
MOST_GATES = 10_000


class Throttle:
    """For one event loop, and one delivery after another: slots at hand go from one to the next."""

    def __init__(self, source: SlotSource) -> None:
        self._source = source
        self._gates: dict[Scope, Gate] = {}
        self._domains: dict[str, Scope | None] = {}
        self._hungry: dict[Scope, Gate] = {}
        self._asking: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[BaseException] | None = None

    def gate_of_relay(self, relay: Relay) -> Gate | None:
        """Where messages to this relay wait; None where it has no limit."""
        return self._gate(self._source.scope_of_relay(relay))

    def gate_of_address(self, address: str) -> Gate | None:
        """Where messages to the domain of this address wait; None where it has no limit."""
        domain = address.rpartition("@")[2]
        try:
            scope = self._domains[domain]
        except KeyError:
            if len(self._domains) >= MOST_DOMAINS:
                self._domains.clear()
            scope = self._domains[domain] = self._source.scope_of_domain(domain)
        return None if scope is None else self._gate(scope)

    async def failure(self) -> NoReturn:
        """Raise what the source raises, when it does."""
        self._failed = asyncio.get_running_loop().create_future()
        raise await self._failed

    def rest(self) -> None:
        """A delivery ends: whoever waits is sent away."""
        self._hungry.clear()
        for gate in self._gates.values():
            gate.rest()
        if len(self._gates) > MOST_GATES:
            self._gates = {scope: gate for scope, gate in self._gates.items() if gate.is_in_use}

    async def close(self) -> None:
        """Give back what is at hand: no delivery follows. What the source raises comes through."""
        if self._asking is not None:
            await asyncio.wait([self._asking])
        unused = [each for gate in self._gates.values() for each in gate.give_up_all()]
        if unused:
            await self._source.take({}, unused)

    def _gate(self, scope: Scope | None) -> Gate | None:
        if scope is None:
            return None
        gate = self._gates.get(scope)
        if gate is None:
            gate = self._gates[scope] = Gate(scope, self._ask)
        return gate

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
                wishes = {scope: wish for scope, gate in hungry.items() if (wish := gate.wish())}
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

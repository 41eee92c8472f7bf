"""Messages whose recipient domain has no slot now: they wait here, so that those of other domains go on (spec 6.7)."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from functools import partial

from mail_orchestration.egress.gate import Gate
from mail_orchestration.egress.slots_at_hand import Opening
from mail_orchestration.kernel.attempts import OutgoingMessage
from mail_orchestration.kernel.clock import steady_seconds

MOST_PARKED, MOST_OCTETS_PARKED = 1000, 8 * 1024 * 1024
"""With more than this, nothing further is taken from the source."""
STALE_AFTER_S = 10.0
"""Who waited for longer may have opted out meanwhile."""


class Parking:
    """One for a delivery. Of those that wait for one gate, the message that came first leaves first."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._queues: dict[Gate, deque[OutgoingMessage]] = {}
        self._due: list[tuple[float, int, Gate]] = []
        """A heap: when each gate that has slots lets the next of its queue leave."""
        self._order = itertools.count()
        self._count = self._octets = 0
        self._since: dict[int, float] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether no more should be taken that might have to wait."""
        return self._count >= MOST_PARKED or self._octets >= MOST_OCTETS_PARKED

    def park(self, gate: Gate, message: OutgoingMessage) -> None:
        """`message` waits for a slot of `gate`. What reading it raises comes through."""
        # Read now, in its turn: later, between those of other domains, each would take its whole block anew.
        message.read()
        self._add(deque.append, gate, message)

    def take_back(self, gate: Gate, message: OutgoingMessage) -> None:
        """`message` missed its slot of `gate`: it waits for the next one, before all others."""
        self._add(deque.appendleft, gate, message)

    def is_stale(self, message: OutgoingMessage) -> bool:
        """Whether `message` has waited here for so long that it may not be wanted any more."""
        since = self._since.get(message.message_no)
        return since is not None and steady_seconds() - since > STALE_AFTER_S

    def refresh(self, message: OutgoingMessage) -> None:
        """`message` is wanted now."""
        self._since.pop(message.message_no, None)

    def next_at(self) -> float:
        """The moment at which the next message may leave; infinitely far when none is known."""
        return self._due[0][0] if self._due else math.inf

    def leave(self, ahead_s: float = 0.0) -> tuple[OutgoingMessage, Gate, Opening] | None:
        """A message that may begin now, with its gate and slot, which stays open for `ahead_s` seconds."""
        while (gate := self._open_gate()) is not None:
            slot = gate.try_enter(ahead_s)
            if slot is not None:
                return self._leave(gate), gate, slot
            self._schedule(gate)
            if ahead_s:
                return None
        return None

    def leave_for_a_session(self) -> OutgoingMessage | None:
        """A message whose gate is open, without a slot yet: it has no session either."""
        gate = self._open_gate()
        return None if gate is None else self._leave(gate)

    def _add(
        self,
        add: Callable[[deque[OutgoingMessage], OutgoingMessage], None],
        gate: Gate,
        message: OutgoingMessage,
    ) -> None:
        is_new = gate not in self._queues
        queue = self._queues.setdefault(gate, deque())
        add(queue, message)
        gate.parked = len(queue)
        self._count += 1
        self._octets += message.octets
        self._since.setdefault(message.message_no, steady_seconds())
        if is_new:
            gate.watch(partial(self._schedule, gate))
            self._schedule(gate)

    def _open_gate(self) -> Gate | None:
        now = steady_seconds()
        while self._due and self._due[0][0] <= now:
            gate = heapq.heappop(self._due)[2]
            if gate in self._queues and gate.next_at() <= now:
                return gate
            self._schedule(gate)
        return None

    def _leave(self, gate: Gate) -> OutgoingMessage:
        queue = self._queues[gate]
        message = queue.popleft()
        gate.parked = len(queue)
        self._count -= 1
        self._octets -= message.octets
        if queue:
            self._schedule(gate)
        else:
            del self._queues[gate]
        return message

    def _schedule(self, gate: Gate) -> None:
        if gate in self._queues and (moment := gate.next_at()) < math.inf:
            heapq.heappush(self._due, (moment, next(self._order), gate))
        self._on_change()

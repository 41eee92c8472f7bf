"""What egress asks of its surroundings: where messages come from and where results go."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mail_orchestration.egress.relay import Relay
from mail_orchestration.kernel.model import DeliveryResult, OutgoingMessage


class MessageSource(Protocol):
    """The messages of one delivery, in the order in which they should go."""

    async def take(self) -> OutgoingMessage | None:
        """The next message; None when there are no more. Never called by two tasks at once.

        Egress takes somewhat ahead of what it sends. What was taken and has no result in the end is unsent.
        """
        ...


class ResultSink(Protocol):
    """Where results become durable."""

    def record(self, result: DeliveryResult) -> Awaitable[None]:
        """Begin to make `result` durable; what is returned resolves when it is.

        A future is the fast way. Raising, at once or later (ClaimLost, say), ends the delivery.
        """
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """What one set of limits holds for: a relay, or a group of recipient domains."""

    kind: Literal["relay", "domain"]
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Slots of one scope that are ours alone. Moments are those of `steady_seconds`."""

    scope: Scope
    opens: Sequence[float]
    """The moments from which one message each may begin, in order; none: the limit leaves nothing now."""
    lateness_s: float
    """How long after its moment a slot may still be used."""
    again_at: float
    """When to ask again, where nothing is left."""
    ticket: object
    """The source's own note, by which it knows the slice again."""


@dataclass(frozen=True, slots=True)
class Unused:
    """What becomes of a slice that we are done with."""

    slice: Slice
    unreached: int
    """Slots at its end that we will not use."""
    unused: int
    """Slots of it that were not used, with those."""


class SlotSource(Protocol):
    """Where slots come from, shared with everybody else who sends (spec 6.7)."""

    def scope_of_relay(self, relay: Relay) -> Scope | None:
        """What limits messages to this relay; None where nothing does."""
        ...

    def scope_of_domain(self, domain: str) -> Scope | None:
        """What limits messages to addresses of this domain; None where nothing does."""
        ...

    async def take(self, wishes: Mapping[Scope, int], unused: Sequence[Unused]) -> Sequence[Slice]:
        """A slice for each wish, with at most as many slots, after `unused` was given back.

        What it raises ends the delivery.
        """
        ...

"""What egress asks of its surroundings: where messages come from and where results go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from mail_orchestration.egress.relay import Relay
from mail_orchestration.kernel.attempts import DeliveryResult, OutgoingMessage


class MessageSource(Protocol):
    """The messages of one delivery, in the order in which they should go."""

    async def take(self) -> OutgoingMessage | None:
        """The next message; None when there are no more. Never called by two tasks at once.

        Egress takes somewhat ahead of what it sends. What was taken and has no result in the end is unsent.
        """
        ...


StillWanted = Callable[[OutgoingMessage], Awaitable[bool]]
"""Whether a message that was taken a while ago is to be sent; the source has noted what becomes of it where not."""


class ResultSink(Protocol):
    """Where results become durable."""

    def record(self, result: DeliveryResult) -> Awaitable[None]:
        """Begin to make `result` durable; what is returned resolves when it is.

        A future is the fast way. Raising, at once or later (ClaimLost, say), ends the delivery.
        """
        ...


ScopeKind = Literal["relay", "domain"]


class Scope(NamedTuple):
    """What one set of limits holds for: a relay, or a group of recipient domains."""

    kind: ScopeKind
    name: str


class Wish(NamedTuple):
    """What one process can use of a scope's slots."""

    messages: int
    horizon_s: float
    """They are to begin within this time."""
    spread_s: float
    """Evenly within this time of the first that is free. Less than the horizon for the last of a delivery."""


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Slots of one scope that are ours alone. Moments are those of `steady_seconds`."""

    scope: Scope
    opens: Sequence[float]
    """The moments of its slots, in order; none: the limit leaves nothing now."""
    weight: int
    """From each of them so many messages may begin …"""
    messages: int
    """… but only so many of the slice in all."""
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
    """Messages that did not begin, with those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """A relay or a recipient domain asked for less."""

    scope: Scope
    reason: str
    """Its words, fit for a log."""
    seen_rate: float
    """Messages per second that it answered to us, lately."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Connections to one relay that one process wants, and how many it may have opened until now."""

    most: int
    """That the relay allows to all together."""
    wanted: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What everybody's sending comes to, as of now."""

    connections: Mapping[Scope, int]
    """By relay: how many we may have open from now on."""
    is_news: bool
    """Other relays or domains are limited than before."""


class SlotSource(Protocol):
    """Where slots come from, shared with everybody else who sends (spec 6.7)."""

    def scope_of_relay(self, relay: Relay) -> Scope:
        """What this relay shares its limits with: itself, by whatever name."""
        ...

    def scope_of_domain(self, domain: str) -> Scope:
        """What addresses of this domain share their limits with."""
        ...

    def is_limited(self, scope: Scope) -> bool:
        """Whether messages need slots there, as of the last `stand`."""
        ...

    async def stand(self, complaints: Sequence[Complaint], held: Mapping[Scope, Held]) -> Standing:
        """Tell the others what we heard and what we have open, by relay, and learn of theirs.

        What it raises ends the delivery.
        """
        ...

    async def leave(self) -> None:
        """No connection is open any more."""
        ...

    async def take(self, wishes: Mapping[Scope, Wish], unused: Sequence[Unused]) -> Sequence[Slice]:
        """A slice for each wish, with at most as many slots, after `unused` was given back.

        What it raises ends the delivery.
        """
        ...

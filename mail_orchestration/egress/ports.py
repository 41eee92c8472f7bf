"""What egress asks of its surroundings: where messages come from and where results go."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

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

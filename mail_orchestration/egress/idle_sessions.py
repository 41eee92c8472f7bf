"""Sessions that one delivery leaves open for the next: a mailcaster's mail jobs follow each other at once.

Greeting a relay, TLS, authentication and QUIT on fifty connections took a fifth of the time of a child of 2,000
messages.
"""

from __future__ import annotations

import asyncio

from mail_orchestration.egress.relay import Relay
from mail_orchestration.egress.session import Session


class IdleSessions:
    """For one event loop; `close` it when no delivery follows. What is kept still ends by its `session_lifetime_s`."""

    def __init__(self) -> None:
        self._kept: list[Session] = []
        self._leaving: list[Session] = []

    def keep(self, session: Session) -> None:
        """`session` is between two mail transactions, and nobody uses it any more."""
        self._kept.append(session)

    async def take(self, relay: Relay) -> Session | None:
        """A session with this relay, as it is configured, that is fit for mail; None when there is none."""
        while (found := next((each for each in self._kept if each.relay == relay), None)) is not None:
            self._kept.remove(found)
            if not found.is_spent:
                return found
            await found.quit()
        return None

    def count(self, host: str, port: int) -> int:
        """How many are open with a relay, under all its names."""
        return sum(
            each.relay.host == host and each.relay.port == port for each in (*self._kept, *self._leaving)
        )

    async def leave(self, host: str, port: int, how_many: int) -> None:
        """Take leave of a relay on so many of them: others are to have the connections."""
        of_relay = [each for each in self._kept if each.relay.host == host and each.relay.port == port]
        self._leaving = of_relay[:how_many]
        self._kept = [each for each in self._kept if each not in self._leaving]
        await asyncio.gather(*(session.quit() for session in self._leaving))
        self._leaving = []

    async def close(self) -> None:
        """Take leave of all relays."""
        kept, self._kept = self._kept, []
        await asyncio.gather(*(session.quit() for session in kept))

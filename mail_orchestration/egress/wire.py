"""The octets of one connection: replies come in, commands go out, every wait has a deadline.

Lean on purpose: one future per wait, one timer per connection that is moved rather than armed anew.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import cast

from mail_orchestration.egress.faults import ConversationBroken, MalformedReply
from mail_orchestration.egress.reply import Reply, ReplyParser

_MAX_UNREAD_REPLIES = 100


class Wire(asyncio.Protocol):
    """The protocol of one connection. `lost` is None as long as the conversation can go on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = ReplyParser()
        self._waiter: asyncio.Future[None] | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._silence, self._timeout_s = "", 0.0
        self._transport: asyncio.Transport | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.replies: deque[Reply] = deque()
        self.lost: str | None = None

    # ── what the loop calls ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.lost is not None:
            return
        try:
            self._parser.feed(data, self.replies)
        except MalformedReply as error:
            self.break_off(str(error))
            return
        if len(self.replies) > _MAX_UNREAD_REPLIES:
            self.break_off("the relay sends replies that nobody asked for")
        elif self.replies:
            self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        if self.lost is None:
            self.lost = (
                "the relay closed the connection" if error is None else f"connection lost: {_plain(error)}"
            )
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._closed.done():
            self._closed.set_result(None)
        self._wake()

    # ── what a session calls ──

    def write(self, octets: bytes | memoryview) -> None:
        """Hand octets to the transport; what a lost connection does not take is told by the next wait."""
        if self.lost is None and self._transport is not None:
            self._transport.write(octets)

    async def reply(self, timeout_s: float) -> Reply:
        """The next reply. Raises ConversationBroken when none comes in `timeout_s` seconds or any more."""
        while not self.replies:
            await self._wait(timeout_s, "no reply")
        return self.replies.popleft()

    def watch_writes(self) -> None:
        """From now on `drain` waits until the transport holds nothing back."""
        if self._transport is not None:
            # Not high=0: asyncio's TLS then pauses when nothing is held, and nothing resumes it.
            self._transport.set_write_buffer_limits(high=1, low=0)

    async def drain(self, timeout_s: float) -> None:
        """Wait until the kernel (under TLS: the encryption) has taken all that was written, or a reply came.

        Raises ConversationBroken when the connection is lost or the relay takes nothing for `timeout_s`.
        """
        while self._paused and not self.replies:
            await self._wait(timeout_s, "the relay takes no data")
        if self.lost is not None and not self.replies:
            raise ConversationBroken(self.lost)

    @property
    def is_quiet(self) -> bool:
        """Whether the connection stands and the relay has said nothing that is not read yet."""
        return self.lost is None and not self.replies and self._parser.is_empty

    async def start_tls(self, context: ssl.SSLContext, server_name: str, handshake_s: float) -> None:
        """Encrypt the connection. Raises OSError or ssl.SSLError when the handshake fails."""
        if self._transport is None or self.lost is not None:
            raise ConversationBroken(self.lost)
        encrypted = await self._loop.start_tls(
            self._transport, self, context, server_hostname=server_name, ssl_handshake_timeout=handshake_s
        )
        if encrypted is None:
            raise ConversationBroken(self.lost)
        self._parser = ReplyParser()
        self.connection_made(encrypted)

    def own_address(self) -> str:
        """Our IP address on this connection."""
        return self._address("sockname")

    def peer_address(self) -> str:
        """The relay's IP address."""
        return self._address("peername")

    def break_off(self, why: str) -> None:
        """End the connection at once; whoever waits for a reply gets `why` as ConversationBroken."""
        if self.lost is None:
            self.lost = why
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    async def close(self, within_s: float) -> None:
        """Close after what was written has left; abort when that takes longer than `within_s` seconds."""
        if self._transport is None:
            return
        self._transport.close()
        await asyncio.wait([self._closed], timeout=within_s)
        self.break_off("closed by us")

    # ── waiting ──

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, timeout_s: float, silence: str) -> None:
        if self.lost is not None:
            raise ConversationBroken(self.lost)
        loop = self._loop
        # Only a whole reply wakes: one that trickles in does not put the deadline off.
        deadline = self._deadline = loop.time() + timeout_s
        if self._timer is None or self._timer.when() > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(deadline, self._look_at_the_clock)
        self._silence, self._timeout_s = silence, timeout_s
        waiter = self._waiter = loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None
            self._deadline = None

    def _look_at_the_clock(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() >= self._deadline:
            self.break_off(f"{self._silence} within {self._timeout_s:g} s")
        else:
            self._timer = self._loop.call_at(self._deadline, self._look_at_the_clock)

    def _address(self, which: str) -> str:
        found = None if self._transport is None else self._transport.get_extra_info(which)
        return str(found[0]) if found else ""


def _plain(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    return type(error).__name__

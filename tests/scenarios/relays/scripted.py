"""A relay in the test's own loop, steered by the address: `drop-at-rcpt@…` drops the connection at RCPT.

The local part of the reverse-path steers MAIL, that of the recipient all later commands. What it took, after
the final dot and a positive reply, stands in `accepted`; every command and its moment in `heard`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from mail_orchestration.egress.relay import Backoff, Relay, Timeouts, TlsMode
from mail_orchestration.kernel.secret import Secret
from tests.scenarios.relays.talk import Drop, Talk


@dataclass
class Script:
    """How the relay behaves towards everybody."""

    greeting: str = "220 scripted ESMTP"
    extensions: list[str] = field(default_factory=lambda: ["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"])
    knows_ehlo: bool = True
    starttls: ssl.SSLContext | None = None
    inject_behind_starttls: bytes = b""
    password: str | None = None
    reply_delay_s: float = 0.0
    once: dict[str, list[str]] = field(default_factory=dict)
    """Step (`greeting`, `ehlo`, `starttls`, `auth`, `mail`, `rset`, `quit`) → what goes wrong at it, each once: the
    first session that comes there meets the first of them, and so on."""
    at_mail: str | None = None
    """While it is set, every MAIL command is answered with it; 421 closes the session."""
    defers_first: int = 0
    """So many RCPT commands, whoever they name, are answered with 451."""
    falls_silent_after: int | None = None
    """So many messages are taken and answered. Those that follow are taken, too, and have no answer for as long as this
    is not None: each connection has one in flight."""
    accepts_after_s: float = 0.0
    """Until then connections wait in the kernel, and nobody greets them."""


class ScriptedRelay:
    """`async with ScriptedRelay() as relay:` listens on a free port of the loopback address."""

    def __init__(self, script: Script | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.script = script or Script()
        self._tls = tls
        self.accepted: Counter[str] = Counter()
        """Recipients of the messages taken, each with how often."""
        self.data: dict[str, bytes] = {}
        """The latest message per recipient, still dot-stuffed."""
        self.received: dict[str, list[bytes]] = {}
        """Per recipient each message whose final dot came, taken or not."""
        self.heard: list[tuple[float, str]] = []
        """Every command, with the loop's time."""
        self.tries: Counter[str] = Counter()
        self.unanswered = 0
        """Messages that were taken and have no answer yet."""
        self.sessions = self.most_sessions = 0
        self.deferred = 0
        self.octets_said_in_vain = 0
        """Of replies without end: what we could write before the client hung up."""
        self._when: tuple[int, Callable[[], None]] | None = None
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> ScriptedRelay:
        listening = socket.create_server(("127.0.0.1", 0), backlog=1000)
        # asyncio does so itself for sockets that it makes: else a client's delayed ACK costs each message 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = int(listening.getsockname()[1])
        self._serving = asyncio.create_task(self._serve_on(listening))
        if not self.script.accepts_after_s:
            await self._serving
        return self

    async def _serve_on(self, listening: socket.socket) -> None:
        await asyncio.sleep(self.script.accepts_after_s)
        self._server = await asyncio.start_server(self._serve, sock=listening, ssl=self._tls, limit=2**20)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._serving
        assert self._server is not None
        self._server.close()
        for talk in list(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    @property
    def port(self) -> int:
        return self._port

    def commands(self, verb: str) -> list[str]:
        return [command for _, command in self.heard if command.upper().startswith(verb)]

    def when_accepted(self, count: int, call: Callable[[], None]) -> None:
        """Call once when `count` messages have been taken."""
        self._when = (count, call)

    @property
    def is_silent(self) -> bool:
        return self.script.falls_silent_after is not None and (
            self.accepted.total() > self.script.falls_silent_after
        )

    def hang_up(self) -> None:
        """Close every session without a word, as relays do with idle ones."""
        for writer in list(self._writers):
            writer.close()

    def take(self, recipient: str, data: bytes) -> None:
        self.accepted[recipient] += 1
        self.data[recipient] = data
        if self._when is not None and self.accepted.total() == self._when[0]:
            self._when[1]()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        self._writers.add(writer)
        self.sessions += 1
        self.most_sessions = max(self.most_sessions, len(self._writers))
        try:
            await Talk(self, reader, writer).run()
        except (Drop, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            self._talks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()


def relay_to(
    server: ScriptedRelay,
    name: str = "scripted",
    *,
    tls: TlsMode = TlsMode.NONE,
    password: str | None = None,
    wait_s: float = 5.0,
    **more: object,
) -> Relay:
    """A Relay that leads to `server`, with short back-offs, and `wait_s` seconds for every reply."""
    waits = Timeouts(
        **{
            f"{step}_s": wait_s
            for step in (
                "greeting",
                "hello",
                "authentication",
                "mail",
                "rcpt",
                "data",
                "data_block",
                "final_dot",
            )
        },
        quit_s=1.0,
    )
    settings: dict[str, object] = {
        "name": name,
        "host": "127.0.0.1",
        "port": server.port,
        "tls": tls,
        "timeouts": waits,
        "backoff": Backoff(first_s=0.02, longest_s=0.1),
        "username": None if password is None else "user",
        "password": None if password is None else Secret(password),
    }
    return Relay(**{**settings, **more})  # type: ignore[arg-type]

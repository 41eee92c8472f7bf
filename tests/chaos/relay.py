"""The relay of the harness: a process of its own that survives everything and logs what it takes before it says 250.

    python -m tests.chaos.relay FOLDER SEED

Its log has a line for each event, fields parted by tabs, each with the moment in seconds since the epoch:

    O moment session helo                                   a session introduced itself
    C moment session helo                                   it is over
    T moment session helo release recipient message_id said a message was taken; said: 1 if 250 is to follow, else 0
    M moment session helo stage mischief                    it misbehaved

A line is written to the file before the reply leaves. One line of JSON to the socket FOLDER/control is an order, and
has one line of JSON as its answer: see `Relay.obey`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import struct
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvloop

from tests.chaos.mischief import TRANSIENT, Mischief, Mischiefs, Stage

LOG, CONTROL, PORT = "relay.log", "control", "port"
SLOW_S = 2.0
TRICKLE_S = 0.02
_EXTENSIONS = b"250-chaos\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"
_HUGE = b"".join(b"250-" + b"x" * 400 + b"\r\n" for _ in range(400))


class Relay:
    """What all sessions share."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.mischiefs = Mischiefs(seed, 0.0)
        self.random = random.Random(f"{seed} latency")
        self.latency_s = 0.0
        self.deferred_share = 0.0
        self.defers_until = 0.0
        self.is_slow_until = 0.0
        self.taken = 0
        self.sessions: Counter[str] = Counter()
        """Open sessions, by how they introduced themselves."""
        self.number = 0
        self._log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def log(self, kind: str, *fields: object) -> None:
        """Write a line, which is in the kernel's hands when this returns."""
        line = "\t".join([kind, f"{time.time():.6f}", *map(str, fields)])
        os.write(self._log, f"{line}\n".encode())

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Set `share`, `deferred_share` of all RCPT and `latency_s`; say 4xx to all for `defer_s`, greet slowly for
        `slow_s`. Answers the counts.
        """
        self.deferred_share = order.get("deferred_share", self.deferred_share)
        self.mischiefs.share = order.get("share", self.mischiefs.share)
        self.latency_s = order.get("latency_s", self.latency_s)
        now = time.monotonic()
        if "defer_s" in order:
            self.defers_until = now + order["defer_s"]
        if "slow_s" in order:
            self.is_slow_until = now + order["slow_s"]
        return {"taken": self.taken, "sessions": dict(self.sessions)}


class Talk(asyncio.Protocol):
    """One session. Input is worked off in order; while a reply is delayed, what comes meanwhile waits."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._helo = "?"
        self._recipient: str | None = None
        self._is_refused = self._is_body = self._is_waiting = self._is_over = False
        relay.number += 1
        self._number = relay.number

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports are asyncio's by behaviour only.
        self._transport = cast(asyncio.Transport, transport)
        done = self._relay.mischiefs.at(Stage.GREETING)
        is_slow = done is Mischief.SLOW or time.monotonic() < self._relay.is_slow_until
        if done is not None:
            self._tell(Stage.GREETING, done)
        if is_slow:
            self._later(SLOW_S, lambda: self._say(b"220 chaos ESMTP\r\n"))
        elif done is None or not self._misbehave(done, b"220 chaos ESMTP\r\n"):
            self._say(b"220 chaos ESMTP\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        self._is_over = True
        if self._helo != "?":
            self._relay.sessions[self._helo] -= 1
            self._relay.log("C", self._number, self._helo)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._work()

    def _work(self) -> None:
        while not (self._is_waiting or self._is_over):
            end = b"\r\n.\r\n" if self._is_body else b"\r\n"
            if self._is_body and self._buffer.startswith(b".\r\n"):
                found, after = b"", 3
            else:
                at = self._buffer.find(end)
                if at < 0:
                    return
                found, after = bytes(self._buffer[:at]), at + len(end)
            del self._buffer[:after]
            if self._is_body:
                self._is_body = False
                self._take(found)
            else:
                self._command(found)

    def _command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb in (b"EHLO", b"HELO"):
            self._helo = line[5:].decode("ascii", "replace")
            self._relay.sessions[self._helo] += 1
            self._relay.log("O", self._number, self._helo)
            self._say(_EXTENSIONS)
        elif verb == b"MAIL":
            self._recipient, self._is_refused = None, False
            self._answer(Stage.MAIL, b"250 2.1.0 fine\r\n")
        elif verb == b"RCPT":
            is_deferred = self._relay.random.random() < self._relay.deferred_share
            if is_deferred or time.monotonic() < self._relay.defers_until:
                self._say(TRANSIENT)
                return
            recipient = line.partition(b"<")[2].partition(b">")[0].decode()
            done = self._relay.mischiefs.at(Stage.RCPT)
            if done is not None:
                self._tell(Stage.RCPT, done)
            if done is Mischief.GOES_ON_WITH_354:
                self._is_refused = True
                self._say(b"450 4.2.1 not now\r\n")
            else:
                self._recipient = recipient if done in (None, Mischief.TRICKLED) else None
                if done is None or not self._misbehave(done, b"250 2.1.5 fine\r\n"):
                    self._say(b"250 2.1.5 fine\r\n")
        elif verb == b"DATA":
            if self._recipient is None and not self._is_refused:
                self._say(b"503 5.5.1 no valid recipients\r\n")
            else:
                self._answer(Stage.DATA, b"354 go on\r\n", self._begin_body)
        elif verb == b"RSET":
            self._recipient = None
            self._say(b"250 2.0.0 forgotten\r\n")
        elif verb == b"QUIT":
            self._say(b"221 2.0.0 bye\r\n")
            self._end()
        else:
            self._say(b"502 5.5.1 what?\r\n")

    def _begin_body(self) -> None:
        self._is_body = True

    def _take(self, body: bytes) -> None:
        if self._recipient is None:
            self._say(b"554 5.5.1 no valid recipients\r\n")
            return
        done = self._relay.mischiefs.at(Stage.DOT)
        recipient, self._recipient = self._recipient, None
        if done is not None:
            self._tell(Stage.DOT, done)
            if done.takes or done in (Mischief.TRICKLED, Mischief.OUT_OF_TURN):
                self._keep(recipient, body, is_said=not done.takes)
            self._misbehave(done, b"250 2.0.0 taken\r\n")
            return
        delay_s = self._relay.latency_s * (0.5 + self._relay.random.random())
        if self._relay.random.random() < 0.5:
            self._keep(recipient, body, is_said=True)
            self._later(delay_s, lambda: self._say(b"250 2.0.0 taken\r\n"))
        else:
            self._later(delay_s, lambda: self._keep_and_say(recipient, body))

    def _keep_and_say(self, recipient: str, body: bytes) -> None:
        self._keep(recipient, body, is_said=True)
        self._say(b"250 2.0.0 taken\r\n")

    def _keep(self, recipient: str, body: bytes, *, is_said: bool) -> None:
        head = b"\r\n" + body.partition(b"\r\n\r\n")[0] + b"\r\n"
        release = _field(head, b"Feedback-ID").partition(":")[0]
        message_id = _field(head, b"Message-ID")
        self._relay.taken += 1
        self._relay.log("T", self._number, self._helo, release, recipient, message_id, int(is_said))

    def _answer(self, stage: Stage, reply: bytes, then: Any = None) -> None:
        done = self._relay.mischiefs.at(stage)
        if done is not None:
            self._tell(stage, done)
        if done is None or not self._misbehave(done, reply):
            self._say(reply)
        if then is not None and done in (None, Mischief.TRICKLED):
            then()

    def _tell(self, stage: Stage, done: Mischief) -> None:
        self._relay.log("M", self._number, self._helo, stage, done)

    def _misbehave(self, done: Mischief, reply: bytes) -> bool:
        """Do it; False when the proper `reply` is still to come."""
        match done:
            case Mischief.SLOW:
                return False
            case Mischief.DROP | Mischief.DROP_TAKEN:
                self._end()
            case Mischief.RESET | Mischief.RESET_TAKEN:
                raw = self._transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._is_over = True
                self._transport.abort()
            case Mischief.HALF_A_REPLY | Mischief.HALF_A_REPLY_TAKEN:
                self._say(b"25")
                self._end()
            case Mischief.MALFORMED | Mischief.MALFORMED_TAKEN:
                self._say(b"hello, how do you do?\r\n")
            case Mischief.HUGE | Mischief.HUGE_TAKEN:
                self._say(_HUGE)
                self._end()
            case Mischief.SAYS_421:
                self._say(b"421 4.3.2 closing\r\n")
                self._end()
            case Mischief.TRANSIENT:
                self._say(TRANSIENT)
            case Mischief.TRICKLED:
                self._trickle(reply, 0)
            case Mischief.OUT_OF_TURN:
                self._say(b"250 2.0.0 taken\r\n250 2.0.0 and again\r\n")
            case Mischief.GOES_ON_WITH_354:
                raise AssertionError("this is a matter of RCPT")
        return True

    def _trickle(self, reply: bytes, at: int) -> None:
        self._is_waiting = at < len(reply)
        if self._is_over:
            return
        if not self._is_waiting:
            self._work()
            return
        self._say(reply[at : at + 1])
        self._loop.call_later(TRICKLE_S, self._trickle, reply, at + 1)

    def _later(self, seconds: float, call: Any) -> None:
        if seconds <= 0:
            call()
            return
        self._is_waiting = True

        def go_on() -> None:
            self._is_waiting = False
            if not self._is_over:
                call()
                self._work()

        self._loop.call_later(seconds, go_on)

    def _say(self, reply: bytes) -> None:
        if not self._is_over:
            self._transport.write(reply)

    def _end(self) -> None:
        self._is_over = True
        self._transport.close()


def _field(head: bytes, name: bytes) -> str:
    found = head.partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0]
    return found.decode("ascii", "replace").strip()


async def _control(relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            writer.write(json.dumps(relay.obey(json.loads(line))).encode() + b"\n")
    writer.close()


async def serve(folder: Path, seed: int) -> None:
    """Until SIGTERM."""
    relay, loop, end = Relay(folder, seed), asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    server = await loop.create_server(lambda: Talk(relay), "0.0.0.0", 0, backlog=1000)
    await asyncio.start_unix_server(partial(_control, relay), folder / CONTROL)
    fresh = folder / f"{PORT}.new"
    fresh.write_text(str(server.sockets[0].getsockname()[1]), encoding="ascii")
    fresh.rename(folder / PORT)
    await end.wait()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2])))

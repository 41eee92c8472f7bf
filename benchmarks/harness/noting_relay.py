"""A relay that takes all mail and notes when it came, in a process of its own.

    python -m benchmarks.harness.noting_relay NOTES

Of each message to limited.example it notes the moment of its MAIL command, twice: when its octets arrived, which the
kernel tells, and when it read them, later where its process waits for a core; and the moment of the final dot.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import uvloop

SO_TIMESTAMPNS = 35
"""Of Linux; Python has no name for it."""
_TIMESPEC = struct.Struct("ll")


@contextmanager
def noting_relay() -> Iterator[tuple[int, Callable[[], dict[str, list[float]]]]]:
    """A relay in a process of its own; its port, and a function that ends it and tells what it heard."""
    with tempfile.TemporaryDirectory(prefix="mo-relay-") as name:
        notes = Path(name) / "heard.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.noting_relay", str(notes)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        port = int(process.stdout.readline())

        def heard() -> dict[str, list[float]]:
            process.terminate()
            process.wait()
            found: dict[str, list[float]] = json.loads(notes.read_text())
            return found

        try:
            yield port, heard
        finally:
            process.kill()
            process.wait()


async def serve(notes: Path) -> None:
    """Take all mail; at SIGTERM write when the limited messages' MAIL commands and final dots came."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
        server.setblocking(False)
        loop.add_reader(server, lambda: _Talk(server.accept()[0], loop))
        print(server.getsockname()[1], flush=True)
        await over.wait()
    heard = {"arrived": _Talk.arrived, "read": _Talk.read, "dots": _Talk.dots}
    notes.write_text(json.dumps({what: sorted(moments) for what, moments in heard.items()}))


class _Talk:
    """One session, on a socket that tells when octets arrived."""

    arrived: ClassVar[list[float]] = []
    read: ClassVar[list[float]] = []
    dots: ClassVar[list[float]] = []

    def __init__(self, connection: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._connection, self._loop = connection, loop
        self._rest, self._in_body = b"", False
        self._mail_at, self._is_limited = (0.0, 0.0), False
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        connection.send(b"220 notes\r\n")
        loop.add_reader(connection, self._read)

    def _read(self) -> None:
        try:
            data, told, *_ = self._connection.recvmsg(1 << 16, socket.CMSG_SPACE(_TIMESPEC.size))
        except ConnectionError:
            data = b""
        if not data:
            self._loop.remove_reader(self._connection)
            self._connection.close()
            return
        arrived = now = time.time()
        if told:  # The kernel begins to note them a moment after the first socket asks for it.
            seconds, nanoseconds = _TIMESPEC.unpack(told[0][2])
            arrived = seconds + nanoseconds / 1e9
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        replies = [reply for line in lines if (reply := self._answer(line, arrived, now))]
        if replies:
            self._connection.send(b"".join(replies))

    def _answer(self, line: bytes, arrived: float, now: float) -> bytes:
        if self._in_body:
            if line != b".":
                return b""
            self._in_body = False
            if self._is_limited:
                self.dots.append(arrived)
            return b"250 2.0.0 taken\r\n"
        match line[:4].upper():
            case b"EHLO":
                return b"250-notes\r\n250 PIPELINING\r\n"
            case b"MAIL":
                self._mail_at = arrived, now
            case b"RCPT":
                self._is_limited = b"@limited.example" in line
                if self._is_limited:
                    self.arrived.append(self._mail_at[0])
                    self.read.append(self._mail_at[1])
            case b"DATA":
                self._in_body = True
                return b"354 go on\r\n"
            case b"QUIT":
                return b"221 2.0.0 bye\r\n"
        return b"250 2.0.0 fine\r\n"


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))

"""The shared throttle, measured by the relay: how near to a limit several mailcasters come, and never above it.

    python -m benchmarks.throttle --seconds 30 --rounds 5

First the table: 1, 4 and 8 mailcasters, each a process of its own, under a limit per second, per minute and of a
recipient domain. The relay notes the moment of each MAIL command, twice: when its octets arrived, which the kernel
tells, and when it read them, later where its process waits for a core. Told are the most in any window of
the limit's length, by both, and the share of the limit that was reached while everybody had work (the first and last
tenth of the messages are left out). The same by final dots stands beside it, for comparison: a limit is kept by MAIL.

Then the cost: one mailcaster at full speed, without limits and under limits that do not bind, in turn: messages a
second, and the mailcaster's CPU for each. The ratios are of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import uvloop
import yaml

from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from tests.scenarios.relays.arrivals import most_in_a_window

CHILD = MailcasterParameters(name="usual").min_job_size
ROWS: list[tuple[str, dict[str, int], float]] = [
    ("per_second", {"per_second": 100}, 1.0),
    ("per_minute", {"per_minute": 6000}, 60.0),
    ("domain", {"per_second": 50}, 1.0),
]
FLEETS = (1, 4, 8)
SO_TIMESTAMPNS = 35
"""Of Linux; Python has no name for it."""
_TIMESPEC = struct.Struct("ll")
UNBINDING = {
    "per_second": 100_000,
    "per_minute": 3_000_000,
    "per_hour": 100_000_000,
    "per_day": 1_000_000_000,
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=30, help="that each row of the table lasts, about")
    options.add_argument("--rounds", type=int, default=5, help="of the comparison")
    options.add_argument("--contacts", type=int, default=50_000, help="of the comparison")
    options.add_argument("--rows", nargs="*", default=[row for row, _, _ in ROWS])
    options.add_argument("--fleets", nargs="*", type=int, default=list(FLEETS))
    options.add_argument("--relay", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--shift", nargs=2, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.relay:
        uvloop.run(serve(chosen.relay))
    elif chosen.shift:
        shift(Path(chosen.shift[0]), chosen.shift[1])
    else:
        os.environ.pop("DATABASE_URL", None)
        with tempfile.TemporaryDirectory(prefix="mo-bench-", dir="/tmp") as name:
            Path(name).chmod(0o711)
            table(Path(name), chosen)
            if chosen.rounds:
                cost(Path(name), chosen)


def table(folder: Path, chosen: argparse.Namespace) -> None:
    """How near the limit they come."""
    print("limit        mailcasters  most in a window: arrived   read     of   share reached   by final dots")
    for name, limits, window_s in ROWS:
        if name not in chosen.rows:
            continue
        for fleet in chosen.fleets:
            per_second = next(iter(limits.values())) / window_s
            seconds = max(chosen.seconds, 1.5 * window_s)
            # Children of the usual size, and one for each: who has come to the end of its work waits for no slot.
            limited = max(int(per_second * seconds), fleet * CHILD)
            heard = measured(folder, fleet, limits, limited, of_domain=name == "domain")
            most = int(per_second * window_s)
            arrived, read, dots = (
                most_in_a_window(heard[each], window_s) for each in ("arrived", "read", "dots")
            )
            print(
                f"{name:<12} {fleet:>11}  {arrived:>25} {read:>6}  {most:>5}"
                f"{rate_of(heard['arrived']) / per_second:>15.1%}{dots:>16}",
                flush=True,
            )


def measured(
    folder: Path, fleet: int, limits: dict[str, int], count: int, *, of_domain: bool
) -> dict[str, list[float]]:
    """When the limited messages of one release came to the relay."""
    names = [f"m{number}" for number in range(fleet)]
    with relay() as (port, heard):
        settings = site(
            folder,
            port,
            relay_limits={} if of_domain else limits,
            domains=[{"name": "limited.example", "limits": limits}] if of_domain else [],
            contacts=["limited.example"] * count + (["free.example"] * count if of_domain else []),
            mailcasters=[{"name": name, "connections": 10} for name in names],
        )
        release(settings)
        shifts([(settings, name) for name in names])
        found = heard()
    assert len(found["read"]) == count, f"{len(found['read'])} of {count} messages came"
    return found


def cost(folder: Path, chosen: argparse.Namespace) -> None:
    """What a throttle costs that does not bind."""
    rates: dict[str, list[float]] = {"none": [], "not binding": []}
    cpu: dict[str, list[float]] = {"none": [], "not binding": []}
    with relay() as (port, _):
        for number in range(chosen.rounds):
            for kind in sorted(rates, reverse=bool(number % 2)):
                is_limited = kind == "not binding"
                settings = site(
                    folder,
                    port,
                    relay_limits=dict(UNBINDING) if is_limited else {},
                    domains=[{"name": "free.example", "limits": dict(UNBINDING)}] if is_limited else [],
                    contacts=["free.example"] * chosen.contacts,
                    mailcasters=[{"name": "m0", "connections": 50}],
                )
                release(settings)
                (told,) = shifts([(settings, "m0")])
                assert told["messages"] == chosen.contacts
                rates[kind].append(told["messages"] / told["seconds"])
                cpu[kind].append(told["cpu_microseconds"] / told["messages"])
    ratio = statistics.median(rates["not binding"]) / statistics.median(rates["none"])
    more_us = statistics.median(cpu["not binding"]) - statistics.median(cpu["none"])
    print(f"with limits that do not bind / without = {ratio:.3f} (medians of {chosen.rounds} rounds)")
    print(f"CPU for each message: {more_us:+.1f} µs to {statistics.median(cpu['none']):.1f} µs")
    print(json.dumps({"messages_per_second": rates, "cpu_microseconds": cpu}))


def rate_of(moments: Sequence[float]) -> float:
    """Messages a second between the first and the last tenth."""
    tenth = len(moments) // 10
    inner = moments[tenth:-tenth]
    return (len(inner) - 1) / (inner[-1] - inner[0])


def site(
    folder: Path,
    port: int,
    *,
    relay_limits: dict[str, int],
    domains: list[dict[str, Any]],
    contacts: Sequence[str],
    mailcasters: list[dict[str, Any]],
) -> Path:
    """An installation with one audience: a contact for each domain of `contacts`, in turn."""
    campaign = folder / "campaigns" / "letter"
    campaign.mkdir(parents=True, exist_ok=True)
    definition = {
        "name": "letter",
        "from": "post@example.org",
        "subject": "A letter",
        "audiences": ["everybody"],
    }
    (campaign / "campaign.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    (campaign / "message.txt.j2").write_text("Hello.\n\n{{ unsubscribe_url }}\n", encoding="utf-8")
    half = len(contacts) // len(set(contacts))
    ordered = [contacts[start] for n in range(half) for start in range(n, len(contacts), half)]
    with (folder / "everybody.csv").open("w", encoding="utf-8") as csv:
        csv.write("email\n")
        csv.writelines(f"r{number}@{domain}\n" for number, domain in enumerate(ordered))
    server = {"name": "relay", "host": "127.0.0.1", "port": port, "tls": "none", "connections": 100}
    settings = {
        "relays": [server | ({"limits": relay_limits} if relay_limits else {})],
        "domains": domains,
        "mailcasters": mailcasters,
        "audiences": [{"name": "everybody", "csv": "everybody.csv", "mode": "replace"}],
    }
    path = folder / "mail_orchestration.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def release(settings: Path) -> None:
    """Everybody gets a mail job of their own."""
    from mail_orchestration import broadcast
    from mail_orchestration.installation import open_installation

    now = datetime.now(UTC)
    with open_installation(settings, application_name="benchmark") as inst:
        broadcast.fill_audience(inst, "everybody", now=now)
        folder = inst.settings.folder / "campaigns" / "letter"
        release_id = broadcast.release_campaign(inst, folder, now=now, again=True).release_id
        broadcast.resolve_release(inst, release_id, now=now)
        broadcast.assemble_release(inst, release_id, now=now)
        broadcast.queue_release(inst, release_id, now=now)


def shifts(whose: list[tuple[Path, str]]) -> list[dict[str, float]]:
    """A shift of each mailcaster, all at once; what each tells."""
    command = [sys.executable, "-m", "benchmarks.throttle", "--shift"]
    running = [subprocess.Popen([*command, str(path), name], stdout=subprocess.PIPE) for path, name in whose]
    told = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return [json.loads(each) for each in told]


def shift(settings: Path, name: str) -> None:
    """One shift, in this process."""
    import resource
    import threading

    from mail_orchestration.installation import open_installation
    from mail_orchestration.mailcaster import run_shift

    with open_installation(settings, application_name=name) as inst:
        summary = run_shift(inst, name, stop=threading.Event())
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "messages": summary.messages,
        "seconds": summary.seconds,
        "cpu_microseconds": 1e6 * (used.ru_utime + used.ru_stime),
    }
    print(json.dumps(told))


@contextmanager
def relay() -> Iterator[tuple[int, Any]]:
    """A relay in a process of its own; its port, and a function that ends it and tells what it heard."""
    with tempfile.TemporaryDirectory(prefix="mo-relay-") as name:
        notes = Path(name) / "heard.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.throttle", "--relay", str(notes)], stdout=subprocess.PIPE
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
    import signal

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
        now = time.time()
        seconds, nanoseconds = _TIMESPEC.unpack(told[0][2])
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        replies = [reply for line in lines if (reply := self._answer(line, seconds + nanoseconds / 1e9, now))]
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
    main()

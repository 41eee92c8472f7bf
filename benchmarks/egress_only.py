"""Egress beside Postfix's own `smtp-source -d` on the same `smtp-sink`: prints the ratio, then JSON.

    python benchmarks/egress_only.py --messages 50000 --sessions 10 --connections 50 --rounds 3

The sink of results resolves its futures in groups, every millisecond, as a group commit would. So each of our
connections waits a millisecond per message; smtp-source, which records nothing, does not. Hence more of ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import time
from contextlib import closing

import uvloop

from mail_orchestration.egress.delivery import deliver
from mail_orchestration.egress.relay import Relay, TlsMode
from mail_orchestration.kernel.model import DeliveryResult, Outcome, OutgoingMessage

SENDER, RECIPIENT = "sender@example.org", "recipient@example.net"
SINK = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin") or "smtp-sink"
SOURCE = shutil.which("smtp-source", path="/usr/sbin:/usr/bin") or "smtp-source"


def message_of(octets: int) -> bytes:
    """A message with a body of about `octets` octets, in lines of 80."""
    lines = max(1, octets // 80)
    return b"From: a\r\nTo: b\r\nSubject: benchmark\r\n\r\n" + (b"X" * 78 + b"\r\n") * lines


class Messages:
    def __init__(self, count: int, data: bytes) -> None:
        self._numbers = iter(range(1, count + 1))
        self._data = data

    async def take(self) -> OutgoingMessage | None:
        for number in self._numbers:
            return OutgoingMessage(number, number, SENDER, RECIPIENT, self._data)
        return None


class GroupedResults:
    """Keeps results in memory; a result is durable with the group of its millisecond."""

    def __init__(self) -> None:
        self.results: list[DeliveryResult] = []
        self._group: list[asyncio.Future[None]] = []

    def record(self, result: DeliveryResult) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        self.results.append(result)
        durable: asyncio.Future[None] = loop.create_future()
        if not self._group:
            loop.call_later(0.001, self._commit)
        self._group.append(durable)
        return durable

    def _commit(self) -> None:
        group, self._group = self._group, []
        for durable in group:
            if not durable.done():
                durable.set_result(None)


async def ours(port: int, count: int, data: bytes, connections: int) -> None:
    relay = Relay(name="sink", host="127.0.0.1", port=port, tls=TlsMode.NONE, connections=connections)
    sink = GroupedResults()
    report = await deliver(
        Messages(count, data), sink, [relay], connections=connections, stop=asyncio.Event()
    )
    assert report.outcomes == {Outcome.ACCEPTED: count}, report
    assert len(sink.results) == count


def theirs(port: int, count: int, octets: int, sessions: int) -> None:
    address = f"127.0.0.1:{port}"
    size = ["-s", str(sessions), "-m", str(count), "-l", str(octets)]
    subprocess.run([SOURCE, "-d", *size, "-f", SENDER, "-t", RECIPIENT, address], check=True)


def start_sink() -> tuple[subprocess.Popen[bytes], int]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([SINK, *user, f"127.0.0.1:{port}", "1000"])
    for _ in range(100):
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, port
        time.sleep(0.05)
    raise SystemExit("smtp-sink does not listen")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--messages", type=int, default=50_000)
    options.add_argument("--sessions", type=int, default=10)
    options.add_argument("--connections", type=int, default=50)
    options.add_argument("--octets", type=int, default=5_000)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    data = message_of(chosen.octets)
    sink, port = start_sink()
    rates: dict[str, list[float]] = {"egress": [], "smtp-source": []}
    try:
        for _ in range(chosen.rounds):
            begun = time.perf_counter()
            theirs(port, chosen.messages, chosen.octets, chosen.sessions)
            rates["smtp-source"].append(chosen.messages / (time.perf_counter() - begun))
            begun = time.perf_counter()
            uvloop.run(ours(port, chosen.messages, data, chosen.connections))
            rates["egress"].append(chosen.messages / (time.perf_counter() - begun))
    finally:
        sink.terminate()
        sink.wait()
    ratio = statistics.median(rates["egress"]) / statistics.median(rates["smtp-source"])
    print(f"egress / smtp-source = {ratio:.2f} (medians of {chosen.rounds} rounds)")
    print(json.dumps({"ratio": round(ratio, 3), "messages_per_second": rates, **vars(chosen)}, default=round))


if __name__ == "__main__":
    main()

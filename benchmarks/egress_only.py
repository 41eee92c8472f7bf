"""Egress alone, in memory, beside Postfix's own `smtp-source -d` on the same `smtp-sink`.

    python -m benchmarks.egress_only --messages 50000 --sessions 10 --connections 50 --rounds 3

The sink of results resolves its futures in groups, every millisecond, as a group commit would. So each of our
connections waits a millisecond per message; smtp-source, which records nothing, does not. Hence more of ours.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import uvloop

from benchmarks.harness import command_line
from benchmarks.harness.measurements import Measurement
from benchmarks.harness.postfix import RECIPIENT, SENDER, sink, smtp_source
from mail_orchestration.egress.delivery import deliver
from mail_orchestration.egress.relay import Relay, TlsMode
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome, OutgoingMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    messages: int = 50_000
    sessions: int = 10
    connections: int = 50
    octets: int = 5_000
    rounds: int = 3


def measure(sizes: Sizes) -> list[Measurement]:
    """The rounds, side by side."""
    data = message_of(sizes.octets)
    theirs: list[float] = []
    own: list[float] = []
    with sink() as port:
        for _ in range(sizes.rounds):
            theirs.append(
                smtp_source(port, messages=sizes.messages, octets=sizes.octets, sessions=sizes.sessions)
            )
            began = time.perf_counter()
            uvloop.run(ours(port, sizes.messages, data, sizes.connections))
            own.append(sizes.messages / (time.perf_counter() - began))
    return [
        Measurement(
            name="egress alone, results in memory",
            unit="messages/s",
            runs=tuple(own),
            reference=f"`smtp-source -d -s {sizes.sessions}`",
            reference_runs=tuple(theirs),
            goal=1,
        )
    ]


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


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(messages=5_000, rounds=1))

"""Sources and sinks of the scenarios, and the one call that delivers and counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass

import uvloop

from mail_orchestration.egress.delivery import DeliveryReport, deliver
from mail_orchestration.egress.relay import Relay
from mail_orchestration.kernel.attempts import DeliveryResult, OutgoingMessage
from mail_orchestration.kernel.message_lines import Lines

DATA = b"From: us\r\nTo: you\r\nSubject: scenario\r\n\r\nHello.\r\n.dot\r\n..two\r\n"


def message(
    number: int,
    address: str,
    *,
    data: bytes = DATA,
    sender: str = "us@example.org",
    lines: Lines = Lines.UNSEEN,
) -> OutgoingMessage:
    return OutgoingMessage(number, 1000 + number, sender, address, data, lines)


def messages_to(addresses: Iterable[str]) -> list[OutgoingMessage]:
    return [message(number, address) for number, address in enumerate(addresses, start=1)]


def plain_messages(count: int) -> list[OutgoingMessage]:
    return messages_to(f"r{number}@example.net" for number in range(1, count + 1))


class ListSource:
    """Gives a list's messages."""

    def __init__(self, messages: Iterable[OutgoingMessage]) -> None:
        self._messages = iter(messages)

    async def take(self) -> OutgoingMessage | None:
        return next(self._messages, None)


class MemorySink:
    """Keeps results; each is durable a little later."""

    def __init__(self) -> None:
        self.results: list[DeliveryResult] = []
        self.durable: list[DeliveryResult] = []

    def record(self, result: DeliveryResult) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        self.results.append(result)
        done: asyncio.Future[None] = loop.create_future()
        loop.call_later(0.001, self._commit, result, done)
        return done

    def _commit(self, result: DeliveryResult, done: asyncio.Future[None]) -> None:
        self.durable.append(result)
        if not done.done():
            done.set_result(None)

    def result_of(self, number: int) -> DeliveryResult:
        (only,) = [result for result in self.results if result.message_no == number]
        return only

    def tally(self) -> dict[str, int]:
        return dict(Counter(result.outcome.value for result in self.results))


@dataclass
class Delivered:
    """What one delivery did."""

    report: DeliveryReport
    sink: MemorySink

    @property
    def tally(self) -> dict[str, int]:
        return self.sink.tally()


async def delivered(
    messages: Sequence[OutgoingMessage],
    relays: Sequence[Relay],
    *,
    connections: int = 1,
    stop: asyncio.Event | None = None,
    unreachable_after_s: float = 10.0,
) -> Delivered:
    """Deliver, and check the books: every message has one result or was returned."""
    sink = MemorySink()
    report = await deliver(
        ListSource(messages),
        sink,
        relays,
        connections=connections,
        stop=stop or asyncio.Event(),
        unreachable_after_s=unreachable_after_s,
    )
    assert sink.durable == sink.results
    assert {outcome.value: count for outcome, count in report.outcomes.items()} == sink.tally()
    assert len({result.message_no for result in sink.results}) == len(sink.results)
    if stop is None:
        assert len(sink.results) + report.returned == len(messages)
    return Delivered(report, sink)


def run_on_both_loops(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    """On asyncio's own loop and on uvloop: their transports and timers are not alike."""
    asyncio.run(scenario())
    uvloop.run(scenario())

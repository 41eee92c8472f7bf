"""421 closes the session; the message is given back and is no attempt, until it has done so three times."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from mail_orchestration.egress.delivery import deliver
from mail_orchestration.kernel.attempts import OutgoingMessage
from tests.scenarios.relays.messages import MemorySink, delivered, messages_to
from tests.scenarios.relays.scripted import Script, ScriptedRelay, relay_to


@pytest.mark.rule("6.4")
@pytest.mark.parametrize("extensions", [["PIPELINING"], ["SIZE"]], ids=["pipelined", "in lock-step"])
@pytest.mark.parametrize("where", ["rcpt", "data", "dot"])
def test_the_message_is_given_back(where: str, extensions: list[str]) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=extensions)) as server:
            addresses = ["a@x.example", f"once-421-at-{where}@x.example", "b@x.example"]
            done = await delivered(messages_to(addresses), [relay_to(server)])
            assert done.tally == {"accepted": 3}
            assert server.accepted == dict.fromkeys(addresses, 1)
            assert server.sessions == 2
            assert "421" in done.report.last_relay_errors["scripted"]

    uvloop.run(scenario())


@pytest.mark.rule("6.4")
def test_it_does_not_spin() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            done = await delivered(messages_to(["421-at-rcpt@x.example", "b@x.example"]), [relay_to(server)])
            assert done.tally == {"deferred": 1, "accepted": 1}
            assert server.tries["421-at-rcpt"] == 3
            assert done.sink.result_of(1).reply_code == 421

    uvloop.run(scenario())


@pytest.mark.rule("6.4")
def test_a_greeting_of_421_touches_no_message() -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(greeting="421 4.3.2 busy")) as busy, ScriptedRelay() as free:
            addresses = [f"r{number}@x.example" for number in range(30)]
            done = await delivered(
                messages_to(addresses), [relay_to(busy, "busy"), relay_to(free, "free")], connections=4
            )
            assert done.tally == {"accepted": 30}
            assert free.accepted == dict.fromkeys(addresses, 1)
            assert done.report.last_relay_errors == {"busy": "greeted with 421 4.3.2 busy"}

    uvloop.run(scenario())


class Late:
    """A source whose last message comes when the others have their results, and that ends when it has its own."""

    def __init__(self, messages: list[OutgoingMessage], sink: MemorySink) -> None:
        self._messages, self._sink, self._given = messages, sink, 0

    async def take(self) -> OutgoingMessage | None:
        while self._given >= len(self._messages) - 1 and len(self._sink.durable) < self._given:
            await asyncio.sleep(0.001)
        self._given += 1
        return self._messages[self._given - 1] if self._given <= len(self._messages) else None


@pytest.mark.rule("6.4")
def test_sessions_that_stand_idle_do_not_keep_the_message_waiting() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            addresses = ["a@x.example", "b@x.example", "c@x.example", "once-421-at-rcpt@x.example"]
            sink = MemorySink()
            source = Late(messages_to(addresses), sink)
            sending = deliver(source, sink, [relay_to(server)], connections=8, stop=asyncio.Event())
            await asyncio.wait_for(sending, timeout=60)
            assert server.accepted == dict.fromkeys(addresses, 1)

    uvloop.run(scenario())

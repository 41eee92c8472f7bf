"""Stop, and a sink that fails: what has begun is finished, no new body begins, one body per connection."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from mail_orchestration.egress.delivery import deliver
from mail_orchestration.kernel.attempts import DeliveryResult, OutgoingMessage
from mail_orchestration.kernel.errors import ClaimLost
from tests.scenarios.relays.messages import ListSource, MemorySink, delivered, plain_messages
from tests.scenarios.relays.scripted import Script, ScriptedRelay, relay_to


@pytest.mark.rule("5.6")
@pytest.mark.parametrize("extensions", [["PIPELINING"], ["SIZE"]], ids=["pipelined", "in lock-step"])
def test_stop_finishes_what_has_begun(extensions: list[str]) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=extensions, reply_delay_s=0.002)) as server:
            stop = asyncio.Event()
            server.when_accepted(30, stop.set)
            done = await delivered(plain_messages(1000), [relay_to(server)], connections=5, stop=stop)
            accepted = done.tally["accepted"]
            assert done.tally == {"accepted": accepted}
            assert 30 <= accepted <= 40
            assert {f"r{result.message_no}@example.net" for result in done.sink.results} == set(
                server.accepted
            )
            assert server.accepted.total() == accepted
            assert 0 < done.report.returned <= 15

    uvloop.run(scenario())


@pytest.mark.rule("5.6")
def test_stop_does_not_wait_for_a_silent_relay_or_source() -> None:
    class Endless:
        async def take(self) -> OutgoingMessage | None:
            await asyncio.Event().wait()
            return None

    async def scenario() -> None:
        async with ScriptedRelay() as server:
            stop = asyncio.Event()
            asyncio.get_running_loop().call_later(0.1, stop.set)
            addressed = plain_messages(1)[0]
            silent = OutgoingMessage(1, 1, "silence-at-mail@y.example", addressed.address, addressed.data)
            done = await delivered([silent], [relay_to(server, wait_s=50.0)], stop=stop)
            assert done.sink.results == []
            assert done.report.returned == 1
            sink = MemorySink()
            report = await deliver(Endless(), sink, [relay_to(server)], connections=2, stop=stop)
            assert (report.returned, report.outcomes) == (0, {})

    async def within() -> None:
        async with asyncio.timeout(40):
            await scenario()

    uvloop.run(within())


@pytest.mark.rule("5.1", "5.5")
@pytest.mark.parametrize("extensions", [["PIPELINING"], ["SIZE"]], ids=["pipelined", "in lock-step"])
def test_a_lost_claim_ends_the_delivery_before_another_body(extensions: list[str]) -> None:
    class LosesItsClaim(MemorySink):
        def record(self, result: DeliveryResult) -> asyncio.Future[None]:
            if len(self.results) < 10:
                return super().record(result)
            self.results.append(result)
            lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.05, lost.set_exception, ClaimLost())
            return lost

    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=extensions)) as server:
            sink = LosesItsClaim()
            with pytest.raises(ClaimLost):
                await deliver(
                    ListSource(plain_messages(500)),
                    sink,
                    [relay_to(server)],
                    connections=3,
                    stop=asyncio.Event(),
                )
            assert len(sink.durable) == 10
            # Each connection ends one message whose result was not taken, and begins no other body.
            assert server.accepted.total() == len(sink.results) <= 13

    uvloop.run(scenario())


@pytest.mark.rule("5.1")
@pytest.mark.parametrize("extensions", [["PIPELINING"], ["SIZE"]], ids=["pipelined", "in lock-step"])
def test_no_body_begins_before_the_last_result_is_durable(extensions: list[str]) -> None:
    class NeverDurable(MemorySink):
        def record(self, result: DeliveryResult) -> asyncio.Future[None]:
            self.results.append(result)
            return asyncio.get_running_loop().create_future()

    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=extensions)) as server:
            sink = NeverDurable()
            delivery = asyncio.create_task(
                deliver(
                    ListSource(plain_messages(50)),
                    sink,
                    [relay_to(server)],
                    connections=4,
                    stop=asyncio.Event(),
                )
            )
            while len(sink.results) < 4:
                await asyncio.sleep(0.01)
            # While others' messages go one after the other, a next body would have begun many times.
            others = await delivered(plain_messages(50), [relay_to(server)])
            assert others.tally == {"accepted": 50}
            assert len(sink.results) == 4
            assert server.accepted.total() == 50 + 4
            delivery.cancel()
            with pytest.raises(asyncio.CancelledError):
                await delivery
            assert server.accepted.total() == 50 + 4

    uvloop.run(scenario())


def test_a_source_that_raises_ends_the_delivery() -> None:
    class Breaks:
        def __init__(self) -> None:
            self._messages = iter(plain_messages(20))

        async def take(self) -> OutgoingMessage | None:
            found = next(self._messages, None)
            if found is None:
                raise ClaimLost
            return found

    async def scenario() -> None:
        async with ScriptedRelay() as server:
            sink = MemorySink()
            with pytest.raises(ClaimLost):
                await deliver(Breaks(), sink, [relay_to(server)], connections=2, stop=asyncio.Event())
            assert server.accepted.total() == len(sink.results) == len(sink.durable)

    uvloop.run(scenario())

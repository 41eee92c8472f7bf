"""Several relays: shares by weight, the others take over, and RelayUnreachable when there is none."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
import uvloop

from mail_orchestration.egress.delivery import deliver
from mail_orchestration.kernel.errors import RelayUnreachable
from tests.scenarios.relays.messages import ListSource, MemorySink, delivered, plain_messages
from tests.scenarios.relays.scripted import Script, ScriptedRelay, relay_to


@pytest.mark.rule("6.8")
def test_connections_are_shared_by_weight() -> None:
    async def scenario() -> None:
        slow = Script(reply_delay_s=0.005)
        async with ScriptedRelay(slow) as heavy, ScriptedRelay(slow) as light:
            relays = [relay_to(heavy, "heavy", weight=3), relay_to(light, "light", weight=1)]
            done = await delivered(plain_messages(80), relays, connections=8)
            assert done.tally == {"accepted": 80}
            assert (heavy.sessions, light.sessions) == (6, 2)

    uvloop.run(scenario())


@pytest.mark.rule("6.8")
def test_a_relay_that_is_down_loses_its_share_to_the_others() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as up:
            down = dataclasses.replace(relay_to(up, "down"), port=1)
            done = await delivered(plain_messages(100), [down, relay_to(up, "up")], connections=6)
            assert done.tally == {"accepted": 100}
            assert {result.relay for result in done.sink.results} == {"up"}
            assert "cannot connect" in done.report.last_relay_errors["down"]

    uvloop.run(scenario())


@pytest.mark.rule("6.8")
def test_a_relay_that_comes_back_gets_its_share_again() -> None:
    async def scenario() -> None:
        script = Script(greeting="554 5.3.2 closed today")
        slow = Script(reply_delay_s=0.003)
        async with ScriptedRelay(script) as first, ScriptedRelay(slow) as second:
            relays = [relay_to(first, "first"), relay_to(second, "second")]

            def come_back() -> None:
                script.greeting = "220 open again"

            second.when_accepted(100, come_back)
            done = await delivered(plain_messages(600), relays, connections=4)
            assert done.tally == {"accepted": 600}
            assert first.accepted.total() > 100
            assert first.accepted.total() + second.accepted.total() == 600

    uvloop.run(scenario())


@pytest.mark.rule("3.7")
def test_without_any_relay_nothing_gets_a_result() -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(greeting="554 5.3.2 closed, ask hostmaster@x.example")) as closed:
            down = dataclasses.replace(relay_to(closed, "down"), port=1)
            sink = MemorySink()
            with pytest.raises(RelayUnreachable) as raised:
                await deliver(
                    ListSource(plain_messages(50)),
                    sink,
                    [relay_to(closed, "closed"), down],
                    connections=5,
                    stop=asyncio.Event(),
                    unreachable_after_s=0.4,
                )
            assert sink.results == []
            assert "closed: greeted with 554 5.3.2" in str(raised.value)
            assert "down: cannot connect" in str(raised.value)
            assert "hostmaster" not in str(raised.value)

    uvloop.run(scenario())


@pytest.mark.rule("3.7")
def test_an_outage_shorter_than_the_window_costs_nothing() -> None:
    async def scenario() -> None:
        script = Script(greeting="421 4.3.2 back soon")
        async with ScriptedRelay(script) as server:

            async def come_back() -> None:
                await asyncio.sleep(0.3)
                script.greeting = "220 here"

            coming_back = asyncio.create_task(come_back())
            done = await delivered(plain_messages(20), [relay_to(server)], connections=3)
            await coming_back
            assert done.tally == {"accepted": 20}
            assert server.accepted.total() == 20

    uvloop.run(scenario())

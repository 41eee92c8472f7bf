"""A mailcaster's next mail job uses the sessions of the last one; what became of them meanwhile is nobody's fault."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from mail_orchestration.egress.delivery import DeliveryReport, deliver
from mail_orchestration.egress.idle_sessions import IdleSessions
from mail_orchestration.egress.relay import Relay
from tests.scenarios.relays.messages import ListSource, MemorySink, messages_to
from tests.scenarios.relays.scripted import Script, ScriptedRelay, relay_to


async def delivered_keeping(
    idle: IdleSessions, relay: Relay, addresses: list[str]
) -> tuple[DeliveryReport, MemorySink]:
    sink = MemorySink()
    report = await deliver(
        ListSource(messages_to(addresses)), sink, [relay], connections=3, stop=asyncio.Event(), idle=idle
    )
    return report, sink


@pytest.mark.parametrize("extensions", [["PIPELINING"], ["SIZE"]], ids=["pipelined", "in lock-step"])
def test_the_next_delivery_greets_nobody_anew(extensions: list[str]) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=extensions)) as server:
            idle, relay = IdleSessions(), relay_to(server)
            opened = []
            for round_ in range(4):
                addresses = [f"r{number}-{round_}@x.example" for number in range(20)]
                report, sink = await delivered_keeping(idle, relay, addresses)
                assert sink.tally() == {"accepted": 20}
                opened.append(report.connections_opened)
            assert opened == [3, 0, 0, 0]
            assert server.sessions == 3
            assert server.commands("QUIT") == []
            await idle.close()
            assert len(server.commands("QUIT")) == 3
            assert set(server.accepted.values()) == {1}

    uvloop.run(scenario())


@pytest.mark.rule("6.4")
@pytest.mark.parametrize("extensions", [["PIPELINING"], ["SIZE"]], ids=["pipelined", "in lock-step"])
def test_one_that_the_relay_closed_meanwhile_is_no_failure(extensions: list[str]) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=extensions)) as server:
            idle, relay = IdleSessions(), relay_to(server)
            await delivered_keeping(idle, relay, ["a@x.example", "b@x.example", "c@x.example"])
            server.hang_up()
            report, sink = await delivered_keeping(idle, relay, ["d@x.example", "e@x.example"])
            assert sink.tally() == {"accepted": 2}
            assert report.last_relay_errors == {}
            assert set(server.accepted.values()) == {1}
            await idle.close()

    uvloop.run(scenario())


@pytest.mark.rule("6.8")
def test_a_relay_that_is_configured_anew_gets_new_sessions() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as first, ScriptedRelay() as second:
            idle = IdleSessions()
            await delivered_keeping(idle, relay_to(first, "relay"), ["a@x.example"])
            _, sink = await delivered_keeping(idle, relay_to(second, "relay"), ["b@x.example"])
            assert sink.tally() == {"accepted": 1}
            assert dict(second.accepted) == {"b@x.example": 1}
            await idle.close()

    uvloop.run(scenario())


def test_one_that_is_too_old_takes_leave() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            idle, relay = IdleSessions(), relay_to(server, session_lifetime_s=0.2)
            await delivered_keeping(idle, relay, ["a@x.example"])
            await asyncio.sleep(0.25)
            report, _ = await delivered_keeping(idle, relay, ["b@x.example"])
            assert report.connections_opened >= 1
            assert len(server.commands("QUIT")) >= 1
            assert dict(server.accepted) == {"a@x.example": 1, "b@x.example": 1}
            await idle.close()

    uvloop.run(scenario())


@pytest.mark.rule("5.5")
def test_no_body_leaves_once_the_lease_is_over() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            sink, stop = MemorySink(), asyncio.Event()

            def may_send() -> bool:
                if server.accepted.total() >= 5:
                    stop.set()
                    return False
                return True

            addresses = [f"r{number}@x.example" for number in range(50)]
            report = await deliver(
                ListSource(messages_to(addresses)),
                sink,
                [relay_to(server)],
                connections=1,
                stop=stop,
                may_send=may_send,
            )
            assert server.accepted.total() == 5
            assert sink.tally() == {"accepted": 5}
            assert report.outcomes[sink.results[0].outcome] == 5

    uvloop.run(scenario())

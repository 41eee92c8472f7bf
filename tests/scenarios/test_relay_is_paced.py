"""Limits of relays and recipient domains, measured at the relay: never more in any window, and nearly all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import uvloop

from mail_orchestration.egress.delivery import deliver
from mail_orchestration.egress.throttle import Throttle
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.throttling import SharedThrottle
from tests.scenarios.relays.messages import ListSource, MemorySink, messages_to, plain_messages
from tests.scenarios.relays.scripted import ScriptedRelay, relay_to


def limited(database: Database, server: ScriptedRelay, **sections: object) -> Throttle:
    """The throttle of these settings; `limits` are the relay's."""
    relay = {
        "name": "scripted",
        "host": "127.0.0.1",
        "port": server.port,
        "limits": sections.pop("limits", {}),
    }
    settings = Settings.model_validate({"relays": [relay], **sections})
    return Throttle(SharedThrottle(database, settings))


def most_in_a_window(moments: Sequence[float], window_s: float) -> int:
    """The most of these moments, in order, that lie within any window of that length."""
    most = first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


def begun(server: ScriptedRelay) -> list[float]:
    """When each MAIL command came."""
    return sorted(moment for moment, command in server.heard if command.startswith("MAIL"))


@pytest.mark.rule("6.7")
def test_no_second_has_more_than_the_limit(database: Database) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            throttle, sink = limited(database, server, limits={"per_second": 40}), MemorySink()
            for part in range(2):
                source = ListSource(plain_messages(120)[part * 60 : part * 60 + 60])
                await deliver(
                    source,
                    sink,
                    [relay_to(server)],
                    connections=5,
                    stop=asyncio.Event(),
                    throttle=throttle,
                )
            await throttle.close()
            assert sink.tally() == {"accepted": 120}
            moments = begun(server)
            assert most_in_a_window(moments, 1.0) <= 40
            assert 119 / (moments[-1] - moments[0]) >= 30

    uvloop.run(scenario())


@pytest.mark.rule("6.7")
def test_a_limited_domain_does_not_hold_up_the_others(database: Database) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            domains = [{"name": "big", "domains": ["big.example", "big.net"], "limits": {"per_second": 10}}]
            throttle, sink = limited(database, server, domains=domains), MemorySink()
            slow = [f"r{n}@big.{'net' if n % 2 else 'example'}" for n in range(25)]
            quick = [f"r{n}@x{n % 3}.example" for n in range(200)]
            report = await deliver(
                ListSource(messages_to([*slow, *quick])),
                sink,
                [relay_to(server)],
                connections=4,
                stop=asyncio.Event(),
                throttle=throttle,
            )
            await throttle.close()
            assert report.returned == 0
            assert sink.tally() == {"accepted": 225}
            heard = [(moment, command) for moment, command in server.heard if command.startswith("RCPT")]
            of_big = [moment for moment, command in heard if "@big." in command]
            assert most_in_a_window(of_big, 1.0) <= 10
            assert max(moment for moment, command in heard if "@x" in command) < of_big[12]

    uvloop.run(scenario())

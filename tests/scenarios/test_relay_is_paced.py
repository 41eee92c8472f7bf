"""Limits of relays and recipient domains, measured at the relay: never more in any window, and nearly all of it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from mail_orchestration.egress.delivery import deliver
from mail_orchestration.egress.throttle import Throttle
from mail_orchestration.kernel.attempts import OutgoingMessage
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.throttling import SharedThrottle
from tests.scenarios.relays.arrivals import begun, most_in_a_window
from tests.scenarios.relays.messages import ListSource, MemorySink, messages_to, plain_messages
from tests.scenarios.relays.scripted import ScriptedRelay, relay_to

# The minute allows three quarters of the second's: so the second is kept however late a busy machine's timers are.
FORTY = {"per_second": 40, "per_minute": 1800}
TEN = {"per_second": 10, "per_minute": 450}


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


@pytest.mark.rule("6.7")
def test_no_second_has_more_than_the_limit(database: Database) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            throttle, sink = limited(database, server, limits=FORTY), MemorySink()
            for part in range(2):
                source = ListSource(plain_messages(80)[part * 40 : part * 40 + 40])
                await deliver(
                    source,
                    sink,
                    [relay_to(server)],
                    connections=5,
                    stop=asyncio.Event(),
                    throttle=throttle,
                )
            await throttle.close()
            assert sink.tally() == {"accepted": 80}
            moments = begun(server)
            assert most_in_a_window(moments, 1.0) <= 40
            assert most_in_a_window(moments, 0.5) <= 20, "evenly spaced"

    uvloop.run(scenario())


@pytest.mark.rule("6.7")
def test_a_limited_domain_does_not_hold_up_the_others(database: Database) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            domains = [{"name": "big", "domains": ["big.example", "big.net"], "limits": TEN}]
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


@pytest.mark.rule("6.7")
def test_who_was_asked_about_for_too_long_waits_for_the_next_slot(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mail_orchestration.egress.parking.STALE_AFTER_S", 0.05)
    asked: list[int] = []

    async def still_wanted(message: OutgoingMessage) -> bool:
        asked.append(message.message_no)
        if len(asked) <= 8:
            await asyncio.sleep(0.4)
        return True

    async def scenario() -> None:
        async with ScriptedRelay() as server:
            throttle, sink = (
                limited(database, server, domains=[{"name": "big.example", "limits": TEN}]),
                MemorySink(),
            )
            await deliver(
                ListSource(messages_to([f"r{n}@big.example" for n in range(24)])),
                sink,
                [relay_to(server)],
                connections=6,
                stop=asyncio.Event(),
                throttle=throttle,
                still_wanted=still_wanted,
            )
            await throttle.close()
            assert sink.tally() == {"accepted": 24}
            assert most_in_a_window(begun(server), 1.0) <= 10

    uvloop.run(scenario())
    assert len(set(asked)) > 12, "most waited for long"


@pytest.mark.rule("6.8")
def test_a_relay_whose_quota_is_used_up_leaves_the_rest_to_the_others(database: Database) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as small, ScriptedRelay() as large:
            throttle, sink = limited(database, small, limits={"per_hour": 30}), MemorySink()
            report = await deliver(
                ListSource(plain_messages(200)),
                sink,
                [relay_to(small, "small"), relay_to(large, "large")],
                connections=6,
                stop=asyncio.Event(),
                throttle=throttle,
            )
            await throttle.close()
            assert sink.tally() == {"accepted": 200}
            assert report.last_relay_errors == {}
            assert len(begun(small)) == 30
            assert len(begun(large)) == 170

    uvloop.run(scenario())


@pytest.mark.rule("6.7")
def test_a_database_that_goes_ends_the_delivery(database: Database) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            throttle, sink = limited(database, server, limits=FORTY), MemorySink()
            server.when_accepted(5, lambda: executor.submit(drop_throttles).result())
            with pytest.raises(ProgrammingError):
                await deliver(
                    ListSource(plain_messages(500)),
                    sink,
                    [relay_to(server)],
                    connections=3,
                    stop=asyncio.Event(),
                    throttle=throttle,
                )
            assert sink.durable == sink.results
            assert len(server.accepted) == len(sink.results) < 500

    def drop_throttles() -> None:
        with database.begin() as connection:
            connection.execute(text("DROP TABLE throttle"))

    with ThreadPoolExecutor(1) as executor:
        uvloop.run(scenario())

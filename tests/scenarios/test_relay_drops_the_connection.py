"""A lost connection: unsent before the final dot, uncertain after it, and nothing else suffers."""

from __future__ import annotations

import pytest

from mail_orchestration.kernel.attempts import Outcome
from tests.scenarios.relays.messages import delivered, message, messages_to, plain_messages, run_on_both_loops
from tests.scenarios.relays.scripted import Script, ScriptedRelay, relay_to

BIG = b"Subject: big\r\n\r\n" + (b"x" * 98 + b"\r\n") * 80_000
NO_PIPELINING = ["8BITMIME"]


@pytest.mark.rule("5.1")
@pytest.mark.parametrize("extensions", [["PIPELINING"], NO_PIPELINING], ids=["pipelined", "in lock-step"])
@pytest.mark.parametrize("how", ["drop", "reset"])
@pytest.mark.parametrize("where", ["rcpt", "data"])
def test_before_the_dot_the_message_is_sent_again(where: str, how: str, extensions: list[str]) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=extensions)) as server:
            addresses = ["a@x.example", f"once-{how}-at-{where}@x.example", "b@x.example"]
            done = await delivered(messages_to(addresses), [relay_to(server)])
            assert done.tally == {"accepted": 3}
            assert server.accepted == dict.fromkeys(addresses, 1)
            assert server.sessions == done.report.connections_opened == 2

    run_on_both_loops(scenario)


@pytest.mark.rule("5.1")
def test_at_mail_the_message_is_sent_again() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            messages = [
                message(1, "a@x.example", sender="once-drop-at-mail@y.example"),
                message(2, "b@x.example"),
            ]
            done = await delivered(messages, [relay_to(server)])
            assert done.tally == {"accepted": 2}
            assert server.accepted == {"a@x.example": 1, "b@x.example": 1}

    run_on_both_loops(scenario)


@pytest.mark.rule("5.1")
@pytest.mark.parametrize("where", ["rcpt", "data"])
def test_a_message_that_breaks_three_connections_is_deferred(where: str) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            poison = f"drop-at-{where}@x.example"
            done = await delivered(messages_to(["a@x.example", poison, "b@x.example"]), [relay_to(server)])
            assert done.tally == {"accepted": 2, "deferred": 1}
            assert server.accepted == {"a@x.example": 1, "b@x.example": 1}
            assert server.sessions == 4
            result = done.sink.result_of(2)
            assert result.enhanced_code == "4.4.2"
            assert "broke 3 connections" in (result.reply_text or "")

    run_on_both_loops(scenario)


@pytest.mark.rule("5.7")
def test_in_a_body_that_is_not_yet_written_the_message_is_unsent() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            messages = [message(1, "drop-in-body@x.example", data=BIG), message(2, "b@x.example")]
            done = await delivered(messages, [relay_to(server)])
            assert done.tally == {"deferred": 1, "accepted": 1}
            assert server.tries["drop-in-body"] == 3
            assert server.accepted == {"b@x.example": 1}

    run_on_both_loops(scenario)


@pytest.mark.rule("5.7")
@pytest.mark.parametrize("extensions", [["PIPELINING"], NO_PIPELINING], ids=["pipelined", "in lock-step"])
@pytest.mark.parametrize("how", ["drop", "reset"])
def test_after_the_dot_it_is_uncertain_and_not_sent_again(how: str, extensions: list[str]) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=extensions)) as server:
            addresses = ["a@x.example", f"{how}-at-dot@x.example", "b@x.example", "c@x.example"]
            done = await delivered(messages_to(addresses), [relay_to(server)])
            assert done.tally == {"accepted": 3, "uncertain": 1}
            assert server.accepted == {"a@x.example": 1, "b@x.example": 1, "c@x.example": 1}
            assert server.tries[f"{how}-at-dot"] == 1
            result = done.sink.result_of(2)
            assert result.outcome is Outcome.UNCERTAIN
            assert result.reply_code is None
            assert "final dot" in (result.reply_text or "")

    run_on_both_loops(scenario)


@pytest.mark.rule("5.7")
def test_a_large_body_arrives_whole() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            done = await delivered(
                [message(1, "a@x.example", data=BIG), *plain_messages(0)], [relay_to(server)]
            )
            assert done.tally == {"accepted": 1}
            assert server.data["a@x.example"] == BIG

    run_on_both_loops(scenario)

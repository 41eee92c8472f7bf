"""4yz defers, 5yz rejects, at every step of a transaction, and the next message is none the worse."""

from __future__ import annotations

import pytest
import uvloop

from mail_orchestration.kernel.attempts import Outcome, Phase
from tests.scenarios.relays.messages import delivered, message, messages_to
from tests.scenarios.relays.scripted import Script, ScriptedRelay, relay_to

BOTH = pytest.mark.parametrize(
    "extensions", [["PIPELINING"], ["SIZE 1000000"]], ids=["pipelined", "in lock-step"]
)


@pytest.mark.rule("6.4")
@BOTH
@pytest.mark.parametrize("where", ["rcpt", "data", "dot"])
def test_a_refusal_is_the_messages_result(where: str, extensions: list[str]) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=extensions)) as server:
            soft, hard = f"451-at-{where}-4-3-0@x.example", f"550-at-{where}-5-1-1@x.example"
            addresses = ["a@x.example", soft, "b@x.example", hard, hard, soft, "c@x.example"]
            done = await delivered(messages_to(addresses), [relay_to(server)])
            assert done.tally == {"accepted": 3, "deferred": 2, "rejected": 2}
            assert server.accepted == {"a@x.example": 1, "b@x.example": 1, "c@x.example": 1}
            assert server.sessions == 1
            deferred, rejected = done.sink.result_of(2), done.sink.result_of(4)
            assert (deferred.reply_code, deferred.enhanced_code) == (451, "4.3.0")
            assert (rejected.reply_code, rejected.enhanced_code) == (550, "5.1.1")
            assert rejected.reply_text == "as asked for by the address"
            assert (deferred.is_hard_bounce, rejected.is_hard_bounce) == (False, True)
            refused_at = {"rcpt": Phase.RCPT, "data": Phase.DATA, "dot": Phase.FINAL_DOT}[where]
            assert (deferred.refused_at, rejected.refused_at) == (refused_at, refused_at)
            assert done.sink.result_of(1).refused_at is None
            assert not server.commands("MAIL FROM:<us@example.org> ")[7:]

    uvloop.run(scenario())


@pytest.mark.rule("6.4")
@BOTH
def test_a_refused_sender_is_the_messages_result(extensions: list[str]) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=extensions)) as server:
            messages = [
                message(1, "a@x.example"),
                message(2, "b@x.example", sender="550-at-mail-5-7-1@y.example"),
                message(3, "c@x.example", sender="450-at-mail@y.example"),
                message(4, "d@x.example", sender=""),
            ]
            done = await delivered(messages, [relay_to(server)])
            assert done.tally == {"accepted": 2, "rejected": 1, "deferred": 1}
            assert server.accepted == {"a@x.example": 1, "d@x.example": 1}
            assert server.sessions == 1
            assert server.commands("MAIL FROM:<>")
            assert done.sink.result_of(2).refused_at is done.sink.result_of(3).refused_at is Phase.MAIL

    uvloop.run(scenario())


@pytest.mark.rule("6.4")
def test_354_without_a_recipient_gets_a_lone_dot() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            addresses = ["a@x.example", "550-at-rcpt-5-1-1-354@x.example", "b@x.example"]
            done = await delivered(messages_to(addresses), [relay_to(server)])
            assert done.tally == {"accepted": 2, "rejected": 1}
            assert server.accepted == {"a@x.example": 1, "b@x.example": 1}
            assert server.sessions == 1
            assert done.sink.result_of(2).enhanced_code == "5.1.1"

    uvloop.run(scenario())


@pytest.mark.rule("6.4")
def test_552_to_rcpt_means_452() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            addresses = ["552-at-rcpt-5-5-3@x.example", "552-at-rcpt-5-2-2@x.example"]
            done = await delivered(messages_to(addresses), [relay_to(server)])
            assert done.sink.result_of(1).outcome is Outcome.DEFERRED
            assert done.sink.result_of(2).outcome is Outcome.REJECTED

    uvloop.run(scenario())


@pytest.mark.rule("6.4")
@pytest.mark.parametrize(("code", "outcome"), [("452", "deferred"), ("552", "rejected")])
def test_a_refusal_in_the_midst_of_the_body_is_the_result(code: str, outcome: str) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            big = b"Subject: big\r\n\r\n" + (b"x" * 98 + b"\r\n") * 80_000
            messages = [message(1, f"early-{code}@x.example", data=big), message(2, "b@x.example")]
            done = await delivered(messages, [relay_to(server)])
            assert done.tally == {outcome: 1, "accepted": 1}
            assert done.sink.result_of(1).reply_code == int(code)
            assert server.accepted == {"b@x.example": 1}

    uvloop.run(scenario())


@pytest.mark.rule("6.8")
def test_530_is_about_the_session_and_no_messages_result() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server, ScriptedRelay() as other:
            messages = [
                message(1, "a@x.example", sender="once-530-at-mail@y.example"),
                message(2, "b@x.example"),
            ]
            done = await delivered(messages, [relay_to(server, "one"), relay_to(other, "two")])
            assert done.tally == {"accepted": 2}
            assert "530" in done.report.last_relay_errors["one"]

    uvloop.run(scenario())

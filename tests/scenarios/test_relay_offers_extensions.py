"""SIZE, 8BITMIME, SMTPUTF8, PIPELINING, EHLO: used when offered, done without or refused when not."""

from __future__ import annotations

import pytest
import uvloop

from tests.scenarios.relays.messages import DATA, delivered, message, plain_messages
from tests.scenarios.relays.scripted import Script, ScriptedRelay, relay_to

EIGHT_BIT = "Subject: hi\r\n\r\ngrüß\r\n".encode()


@pytest.mark.rule("6.8")
def test_what_is_offered_is_used() -> None:
    async def scenario() -> None:
        script = Script(extensions=["SIZE 5000", "8BITMIME", "SMTPUTF8", "PIPELINING"])
        async with ScriptedRelay(script) as server:
            messages = [
                message(1, "a@x.example", data=EIGHT_BIT),
                message(2, "jürgen@x.example"),
                message(3, "c@x.example", data=DATA + b"x\r\n" * 2000),
            ]
            done = await delivered(messages, [relay_to(server)])
            assert done.tally == {"accepted": 2, "rejected": 1}
            assert done.sink.result_of(3).enhanced_code == "5.3.4"
            assert server.commands("MAIL") == [
                f"MAIL FROM:<us@example.org> SIZE={len(EIGHT_BIT)} BODY=8BITMIME",
                f"MAIL FROM:<us@example.org> SIZE={len(DATA)} SMTPUTF8",
            ]
            assert server.data["a@x.example"] == EIGHT_BIT
            assert server.data["jürgen@x.example"] == DATA.replace(b"\r\n.", b"\r\n..")

    uvloop.run(scenario())


@pytest.mark.rule("6.8")
def test_what_is_needed_and_not_offered_is_refused_here() -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=["HELP"])) as server:
            messages = [
                message(1, "a@x.example", data=EIGHT_BIT),
                message(2, "jürgen@x.example"),
                *plain_messages(0),
            ]
            done = await delivered([*messages, message(3, "c@x.example")], [relay_to(server)])
            assert done.tally == {"accepted": 1, "rejected": 2}
            assert done.sink.result_of(1).enhanced_code == "5.6.3"
            assert done.sink.result_of(2).enhanced_code == "5.6.7"
            assert server.commands("MAIL") == ["MAIL FROM:<us@example.org>"]

    uvloop.run(scenario())


@pytest.mark.rule("6.8")
def test_a_relay_that_knows_no_ehlo_gets_helo() -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(knows_ehlo=False)) as server:
            done = await delivered(plain_messages(5), [relay_to(server, helo_name="mail.example.org")])
            assert done.tally == {"accepted": 5}
            assert server.commands("HELO") == ["HELO mail.example.org"]

    uvloop.run(scenario())


@pytest.mark.rule("2.4")
@pytest.mark.parametrize(
    "data",
    [
        b"A: b\r\n\r\nx\n.\nMAIL FROM:<evil@x.example>\r\n",
        b"A: b\r\n\r\nx\r.\r\n",
        b"A: b\r\n\r\n\0\r\n",
        b"A: b\r\n\r\n" + b"x" * 999 + b"\r\n",
    ],
)
def test_what_could_smuggle_never_leaves(data: bytes) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            messages = [
                message(1, "a@x.example", data=data),
                message(2, "b@x.example>\r\nRCPT TO:<c@x.example"),
                message(3, "b@x.example", sender="a b@y.example"),
                message(4, "d@x.example"),
            ]
            done = await delivered(messages, [relay_to(server)])
            assert done.tally == {"accepted": 1, "rejected": 3}
            assert done.sink.result_of(1).enhanced_code == "5.6.0"
            assert server.accepted == {"d@x.example": 1}
            assert len(server.commands("MAIL")) == len(server.commands("RCPT")) == 1

    uvloop.run(scenario())


@pytest.mark.rule("6.8")
def test_a_session_is_renewed_by_time() -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(reply_delay_s=0.005)) as server:
            done = await delivered(plain_messages(40), [relay_to(server, session_lifetime_s=0.1)])
            assert done.tally == {"accepted": 40}
            assert server.sessions > 2
            assert len(server.commands("QUIT")) == server.sessions

    uvloop.run(scenario())

"""Replies that are none, never end, trickle, or come unasked: the books still balance."""

from __future__ import annotations

import pytest
import uvloop

from tests.scenarios.relays.messages import delivered, messages_to
from tests.scenarios.relays.scripted import ScriptedRelay, relay_to

MANNERS = pytest.mark.parametrize("how", ["malformed", "huge", "trickle", "silence"])


@pytest.mark.rule("5.1")
@MANNERS
def test_before_the_dot_the_message_is_sent_again(how: str) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            addresses = ["a@x.example", f"once-{how}-at-rcpt@x.example", "b@x.example"]
            done = await delivered(messages_to(addresses), [relay_to(server, wait_s=1.0)])
            assert done.tally == {"accepted": 3}
            assert server.accepted == dict.fromkeys(addresses, 1)
            assert server.sessions == 2

    uvloop.run(scenario())


@pytest.mark.rule("5.7")
@MANNERS
def test_after_the_dot_it_is_uncertain(how: str) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            addresses = ["a@x.example", f"{how}-at-dot@x.example", "b@x.example"]
            done = await delivered(messages_to(addresses), [relay_to(server, wait_s=1.0)])
            assert done.tally == {"accepted": 2, "uncertain": 1}
            assert server.accepted == {"a@x.example": 1, "b@x.example": 1}
            assert server.tries[f"{how}-at-dot"] == 1

    uvloop.run(scenario())


@pytest.mark.rule("5.7")
@pytest.mark.parametrize("where", ["rcpt", "data"])
def test_354_or_a_reply_too_many_never_shifts_the_replies(where: str) -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            addresses = [f"twice-at-{where}@x.example", "b@x.example"]
            done = await delivered(messages_to(addresses), [relay_to(server)])
            assert done.tally == {"deferred": 1, "accepted": 1}
            assert server.accepted == {"b@x.example": 1}

    uvloop.run(scenario())


@pytest.mark.rule("5.7")
def test_a_second_reply_to_the_dot_is_not_taken_for_the_next_messages() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            addresses = ["twice-at-dot@x.example", "550-at-rcpt@x.example", "b@x.example"]
            done = await delivered(messages_to(addresses), [relay_to(server)])
            assert done.tally == {"accepted": 2, "rejected": 1}
            assert server.accepted == {"b@x.example": 1}

    uvloop.run(scenario())

"""messages_per_second, measured at the relay: never more in any one second, and not much less."""

from __future__ import annotations

import pytest
import uvloop

from tests.scenarios.relays.messages import delivered, plain_messages
from tests.scenarios.relays.scripted import ScriptedRelay, relay_to


@pytest.mark.rule("6.7")
def test_no_second_has_more_than_the_limit() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            done = await delivered(
                plain_messages(100), [relay_to(server, messages_per_second=40)], connections=5
            )
            assert done.tally == {"accepted": 100}
            begun = sorted(moment for moment, command in server.heard if command.startswith("MAIL"))
            in_a_second = [sum(start <= moment < start + 1.0 for moment in begun) for start in begun]
            assert max(in_a_second) <= 40

    uvloop.run(scenario())

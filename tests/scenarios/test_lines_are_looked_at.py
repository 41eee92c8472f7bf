"""The last look at a message's lines, and when it is not needed."""

from __future__ import annotations

import pytest
import uvloop

from mail_orchestration.kernel.message_lines import Lines
from tests.scenarios.relays.messages import DATA, delivered, message
from tests.scenarios.relays.scripted import Script, ScriptedRelay, relay_to

SMUGGLED = b"Subject: hi\r\n\r\nhello\n.\r\nMAIL FROM:<evil@y.example>\r\n"
PLAIN = b"Subject: hi\r\n\r\nhello\r\n"


@pytest.mark.parametrize("extensions", [["HELP"], ["PIPELINING"]])
def test_only_what_was_looked_at_leaves_without_another_look(extensions: list[str]) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=extensions)) as server:
            messages = [
                message(1, "a@x.example", lines=Lines.FIT),
                message(2, "b@x.example", data=SMUGGLED),
                message(3, "c@x.example", data=PLAIN, lines=Lines.PLAIN),
                message(4, "d@x.example"),
            ]
            done = await delivered(messages, [relay_to(server)])
            assert done.tally == {"accepted": 3, "rejected": 1}
            assert done.sink.result_of(2).enhanced_code == "5.6.0"
            assert server.data == {
                "a@x.example": DATA.replace(b"\r\n.", b"\r\n.."),
                "c@x.example": PLAIN,
                "d@x.example": DATA.replace(b"\r\n.", b"\r\n.."),
            }

    uvloop.run(scenario())

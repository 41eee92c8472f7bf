"""Against Postfix's smtp-sink: pipelined and not, dropping, refusing, closing and slow."""

from __future__ import annotations

import dataclasses

import pytest
import uvloop

from tests.scenarios.relays.messages import delivered, plain_messages
from tests.scenarios.relays.postfix_sink import smtp_sink


@pytest.mark.rule("5.1")
@pytest.mark.parametrize("options", [(), ("-p",), ("-e",)], ids=["pipelined", "no PIPELINING", "no ESMTP"])
def test_all_are_accepted(options: tuple[str, ...]) -> None:
    with smtp_sink(*options) as relay:
        done = uvloop.run(delivered(plain_messages(500), [relay], connections=10))
        assert done.tally == {"accepted": 500}
        assert done.report.connections_opened <= 10


@pytest.mark.rule("5.7")
def test_dropped_after_each_final_dot_all_are_uncertain() -> None:
    with smtp_sink("-q", ".") as relay:
        done = uvloop.run(delivered(plain_messages(10), [relay], connections=2))
        assert done.tally == {"uncertain": 10}
        assert done.report.connections_opened == 10


@pytest.mark.rule("6.4")
@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize(("option", "outcome", "code"), [("-r", "deferred", 450), ("-f", "rejected", 500)])
def test_refused_at_each_command(command: str, option: str, outcome: str, code: int) -> None:
    with smtp_sink(option, command) as relay:
        done = uvloop.run(delivered(plain_messages(20), [relay], connections=2))
        assert done.tally == {outcome: 20}
        assert {result.reply_code for result in done.sink.results} == {code}
        assert done.report.connections_opened == 2


@pytest.mark.rule("6.4")
@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA", "."])
def test_421_at_each_command_defers_after_three_tries(command: str) -> None:
    with smtp_sink("-Q", command) as relay:
        done = uvloop.run(delivered(plain_messages(3), [relay]))
        assert done.tally == {"deferred": 3}
        assert {result.reply_code for result in done.sink.results} == {421}
        assert done.report.connections_opened == 9


@pytest.mark.rule("5.7")
def test_a_final_dot_that_is_not_answered_in_time_is_uncertain() -> None:
    with smtp_sink("-W", ".:5") as relay:
        hurried = dataclasses.replace(relay, timeouts=dataclasses.replace(relay.timeouts, final_dot_s=0.2))
        done = uvloop.run(delivered(plain_messages(2), [hurried], connections=2))
        assert done.tally == {"uncertain": 2}
        assert "within 0.2 s" in (done.sink.results[0].reply_text or "")

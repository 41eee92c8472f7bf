"""When a mailcaster gives up because too much is refused (spec 3.7)."""

from __future__ import annotations

import pytest

from mail_orchestration.dispatch.failure_policy import canary_verdict, gives_up


@pytest.mark.rule("3.7")
@pytest.mark.parametrize(
    ("sent", "refused", "percentage", "is_up"),
    [
        pytest.param(99, 99, 25, False, id="too early to say"),
        pytest.param(100, 26, 25, True, id="the hundredth message decides"),
        pytest.param(100, 25, 25, False, id="exactly the limit is allowed"),
        pytest.param(1000, 251, 25, True, id="just above"),
        pytest.param(1000, 250, 25, False, id="just at"),
        pytest.param(1000, 1000, 100, False, id="100 % never gives up"),
        pytest.param(1000, 1, 0, True, id="0 % allows none"),
        pytest.param(1000, 3, 0.25, True, id="fractions of a percent"),
        pytest.param(0, 0, 25, False, id="nothing sent"),
    ],
)
def test_gives_up(sent: int, refused: int, percentage: float, is_up: bool) -> None:
    assert gives_up(sent, refused, percentage) is is_up


@pytest.mark.parametrize(
    ("messages", "rejected", "percentage", "failure", "verdict"),
    [
        pytest.param(50, 1, 2, None, "", id="exactly the limit is allowed"),
        pytest.param(
            50, 2, 2, None, "canary: 2 of the first 50 messages were rejected, more than 2 %", id="above"
        ),
        pytest.param(50, 0, 0, None, "", id="0 % allows none, and there was none"),
        pytest.param(50, 0, 2, "no relay", "canary: its mail job failed: no relay", id="failed"),
    ],
)
def test_canary_verdict(
    messages: int, rejected: int, percentage: float, failure: str | None, verdict: str
) -> None:
    assert canary_verdict(messages, rejected, percentage, failure) == verdict

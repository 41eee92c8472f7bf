"""What comes after an attempt at a loose mail (spec 6.3, 6.4, 5.7)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mail_orchestration.dispatch.retry_policy import PAUSE_AFTER_421, RetryPolicy, next_step
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.loose_mail_states import LooseMailKind, LooseMailState

NOW = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
HALF_AN_HOUR = timedelta(minutes=30)
SINGLE, RETRY = LooseMailKind.SINGLE, LooseMailKind.RETRY
AGAIN, DEAD = LooseMailState.SCHEDULED, LooseMailState.FAILED


def result(outcome: Outcome, code: int | None = None, relay: str = "relay") -> DeliveryResult:
    return DeliveryResult(1, 1, outcome, code, None, None, relay, NOW)


@pytest.mark.rule("6.3", "6.4", "5.7")
@pytest.mark.parametrize(
    ("kind", "outcome", "attempts_before", "resends", "enters"),
    [
        (RETRY, Outcome.ACCEPTED, 4, True, None),
        (SINGLE, Outcome.ACCEPTED, 0, True, None),
        (RETRY, Outcome.REJECTED, 1, True, None),
        (SINGLE, Outcome.REJECTED, 0, True, DEAD),
        (RETRY, Outcome.DEFERRED, 3, True, AGAIN),
        (RETRY, Outcome.DEFERRED, 4, True, DEAD),
        (SINGLE, Outcome.DEFERRED, 4, True, DEAD),
        (RETRY, Outcome.UNCERTAIN, 3, True, AGAIN),
        (RETRY, Outcome.UNCERTAIN, 4, True, None),
        (RETRY, Outcome.UNCERTAIN, 1, False, None),
        (RETRY, Outcome.STOPPED, 1, True, None),
        (RETRY, Outcome.EXPIRED, 1, True, None),
    ],
)
def test_the_end_another_attempt_or_a_dead_letter(
    kind: LooseMailKind,
    outcome: Outcome,
    attempts_before: int,
    resends: bool,
    enters: LooseMailState | None,
) -> None:
    policy = RetryPolicy(most_attempts=5, retry_after=HALF_AN_HOUR, resends_uncertain=resends)
    step = next_step(kind, result(outcome), attempts_before, policy)
    assert step.enters is enters
    assert step.is_counted
    assert step.due_at == (NOW + HALF_AN_HOUR if enters is AGAIN else None)
    assert (step.description is not None) == (enters is DEAD)


@pytest.mark.rule("6.4")
@pytest.mark.parametrize("attempts_before", [0, 4, 90])
def test_421_is_no_attempt_however_often_it_comes(attempts_before: int) -> None:
    policy = RetryPolicy(most_attempts=5, retry_after=HALF_AN_HOUR)
    step = next_step(RETRY, result(Outcome.DEFERRED, 421), attempts_before, policy)
    assert (step.enters, step.is_counted, step.due_at) == (AGAIN, False, NOW + PAUSE_AFTER_421)


@pytest.mark.rule("5.7")
def test_what_we_decided_not_to_send_again_is_not_sent_again() -> None:
    policy = RetryPolicy(most_attempts=5, retry_after=HALF_AN_HOUR)
    step = next_step(RETRY, result(Outcome.UNCERTAIN, relay=""), 1, policy)
    assert step.enters is None

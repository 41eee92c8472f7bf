"""What comes after an attempt at a loose mail: its end, another attempt, or a dead letter (spec 6.3, 6.4, 5.7)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.loose_mail_states import LooseMailKind, LooseMailState

PAUSE_AFTER_421 = timedelta(minutes=1)
"""421 is about the session and counts no attempt: the mail comes again soon, if not at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often an attempt is repeated, and when."""

    most_attempts: int
    retry_after: timedelta
    resends_uncertain: bool = True
    """Whether a mail that may have arrived is sent once more (the campaign's `on_uncertain`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """What becomes of a loose mail after an attempt."""

    enters: LooseMailState | None
    """None: it has come to its end, and moves to the delivery log."""
    due_at: datetime | None = None
    is_counted: bool = True
    """Whether it was an attempt at all."""
    description: str | None = None
    """Why it is a dead letter."""


def next_step(
    kind: LooseMailKind, result: DeliveryResult, attempts_before: int, policy: RetryPolicy
) -> NextStep:
    """What follows from `result`, the attempt number `attempts_before` + 1.

    A mail of its own that is refused for good is kept as a dead letter (spec 7.3); a message of a release has its
    end in the results log.
    """
    attempts = attempts_before + 1
    match result.outcome:
        case Outcome.ACCEPTED | Outcome.STOPPED | Outcome.EXPIRED:
            return NextStep(enters=None)
        case Outcome.REJECTED if kind is LooseMailKind.RETRY:
            return NextStep(enters=None)
        case Outcome.REJECTED:
            return NextStep(enters=LooseMailState.FAILED, description="refused for good")
        case Outcome.DEFERRED if result.reply_code == 421:
            due_at = result.occurred_at + PAUSE_AFTER_421
            return NextStep(enters=LooseMailState.SCHEDULED, due_at=due_at, is_counted=False)
        case Outcome.DEFERRED if attempts >= policy.most_attempts:
            return NextStep(enters=LooseMailState.FAILED, description="the most attempts were made")
        case Outcome.UNCERTAIN if (
            result.relay == "" or not policy.resends_uncertain or attempts >= policy.most_attempts
        ):
            # It may have arrived: only somebody who can look knows, and says so with `uncertain`.
            return NextStep(enters=None)
        case Outcome.DEFERRED | Outcome.UNCERTAIN:
            due_at = result.occurred_at + policy.retry_after
            return NextStep(enters=LooseMailState.SCHEDULED, due_at=due_at)
        case _:
            assert_never(result.outcome)

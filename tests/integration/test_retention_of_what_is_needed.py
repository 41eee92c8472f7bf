"""Clean delivery queue never drops what is needed still, and tells for what it is needed (spec 6.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mail_orchestration.kernel.attempts import Outcome
from tests.integration.feedback_fixtures import Release, a_result, add_results, execute, noon_of
from tests.integration.retention_world import MESSAGES, OF_RELEASES, World, world

__all__ = ["world"]

pytestmark = pytest.mark.rule("6.5")

Change = Callable[[World, Release], None]


def mail_job(assignments: str) -> Change:
    """Its row is changed: `state = 'RUNNING', ended_at = NULL`, say."""
    return lambda world, made: world.set_mail_job(made, assignments)


def second_result(outcome: Outcome, **changes: Any) -> Change:
    """Its second message has a result of the release's day."""
    return lambda world, made: add_results(
        world.database, made, [a_result(2, outcome, at=noon_of(made.released_on), **changes)]
    )


def is_retried(world: World, made: Release) -> None:
    execute(
        world.database,
        "INSERT INTO loose_mail (installation_id, kind, state, due_at, campaign_id, contact_id, address, "
        "released_on, release_id, message_no, mail_job_id, result_no, last_outcome) "
        "SELECT :i, 'retry', 'FAILED', now(), campaign_id, 2, 'x@a.example', released_on, release_id, 2, "
        "release_id, 1, 'deferred' FROM release WHERE release_id = :id",
        i=world.installation_id,
        id=made.release_id,
    )


def is_not_retried(world: World, made: Release) -> None:
    execute(world.database, "DELETE FROM loose_mail")


def is_counted_late(world: World, made: Release) -> None:
    late = a_result(2, at=noon_of(world.day(1)))
    add_results(world.database, made, [late])


def is_closed(world: World, made: Release) -> None:
    world.close_days(0)


HAS_ENDED = mail_job("state = 'FINISHED', ended_at = now()")


@pytest.mark.parametrize(
    ("needs", "reason", "needs_no_more", "messages_too"),
    [
        pytest.param(
            mail_job("state = 'RUNNING', ended_at = NULL"),
            "mail jobs that have not ended",
            HAS_ENDED,
            True,
            id="running",
        ),
        pytest.param(
            mail_job("state = 'STOPPED_R', ended_at = NULL"),
            "mail jobs that have not ended",
            HAS_ENDED,
            True,
            id="stopped",
        ),
        pytest.param(
            second_result(Outcome.UNCERTAIN, relay="r"),
            "uncertain messages that the operator has not settled",
            second_result(Outcome.ACCEPTED, result_no=2, supersedes=Outcome.UNCERTAIN, relay=""),
            True,
            id="uncertain",
        ),
        pytest.param(
            is_retried,
            "mails that are to be sent again, or failed and wait for the operator",
            is_not_retried,
            True,
            id="retried",
        ),
        pytest.param(
            mail_job("queued_at = now() - interval '6 days'"),
            "mail jobs that were queued within the history",
            mail_job("queued_at = now() - interval '8 days'"),
            False,
            id="queued late",
        ),
        pytest.param(
            is_counted_late,
            "results that the daily log has not counted",
            is_closed,
            False,
            id="counted late",
        ),
    ],
)
def test_what_is_needed_stays_and_is_told(
    world: World, needs: Change, reason: str, needs_no_more: Change, messages_too: bool
) -> None:
    old, other = world.release(50, Outcome.ACCEPTED), world.release(51, Outcome.ACCEPTED)
    world.close_days()
    needs(world, old)

    retained = world.clean()
    assert [(each.day, each.reason, each.number) for each in retained.kept] == [(old.released_on, reason, 1)]
    assert OF_RELEASES & world.tables(50) == OF_RELEASES - (set() if messages_too else MESSAGES)
    assert world.tables(51) == {"daily_mail_count"}, other

    needs_no_more(world, old)
    assert world.clean().kept == []
    assert world.tables(50) == {"daily_mail_count"}

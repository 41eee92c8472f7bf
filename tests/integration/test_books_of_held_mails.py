"""The books of releases some of whose recipients the frequency policy kept from getting their mail at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import text

from mail_orchestration.feedback.books import books
from mail_orchestration.kernel.database import Database
from tests.integration.feedback_fixtures import (
    DAY,
    NOON,
    Release,
    a_result,
    add_installation,
    add_release,
    add_results,
    books_of,
    execute,
)

pytestmark = [pytest.mark.rule("1.8"), pytest.mark.rule("8.4")]

THREE_IN_SEVEN = (3, 7)
HELD = (4, 5, 6, 7)
"""Recipients, and contacts, of `a_release_with_held_mails` who wait."""


def _keep(database: Database, release: Release, numbers: Sequence[int], reason: str, rule: str) -> None:
    """What the gate notes of recipients."""
    for number in numbers:
        execute(
            database,
            "INSERT INTO bypass VALUES (:day, :release_id, :number, 'frequency', :reason, :rule)",
            day=release.released_on,
            release_id=release.release_id,
            number=number,
            reason=reason,
            rule=rule,
        )


def _wait(database: Database, release: Release, contacts: Sequence[int]) -> None:
    """Rows of the frequency queue."""
    for contact in contacts:
        execute(
            database,
            """
            INSERT INTO held_mail (installation_id, contact_id, campaign_id, release_id, audience_id, priority, held_at,
                expires_at, max_mails, days)
            SELECT :installation_id, :contact, campaign_id, release_id, 1, 0, :now, :expires_at, 3, 7
            FROM release WHERE release_id = :release_id
            """,
            installation_id=release.installation_id,
            contact=contact,
            release_id=release.release_id,
            now=NOON,
            expires_at=NOON + timedelta(days=7),
        )


def _end(
    database: Database, release: Release, contacts: Sequence[int], ending: str, later: int | None = None
) -> None:
    """The wait of these ends, as whoever ends it writes it."""
    for contact in contacts:
        execute(
            database,
            """
            WITH ended AS (
                DELETE FROM held_mail WHERE release_id = :release_id AND contact_id = :contact RETURNING *
            )
            INSERT INTO held_mail_log
            SELECT :day, held_mail_id, installation_id, contact_id, campaign_id, release_id, audience_id, priority,
                held_at, expires_at, max_mails, days, clock_timestamp(), CAST(:ending AS held_mail_ending), :later,
                'a test'
            FROM ended
            """,
            release_id=release.release_id,
            contact=contact,
            day=DAY,
            ending=ending,
            later=later,
        )


def _a_later_release(
    database: Database, original: Release, contacts: Sequence[int], *, messages: int, state: str = "FINISHED"
) -> Release:
    """What sends held mails of `original` to contacts; the last ones of them are suppressed by now."""
    made = add_release(
        database,
        original.installation_id,
        recipients=len(contacts),
        messages=messages,
        state=state,
        bypassed=[(number, "hard_bounce") for number in range(messages + 1, len(contacts) + 1)],
        released_on=DAY + timedelta(days=1),
    )
    execute(
        database,
        "UPDATE release SET held_from = :original WHERE release_id = :id",
        original=original.release_id,
        id=made.release_id,
    )
    return made


@pytest.fixture
def release(database: Database) -> Release:
    """Ten recipients: 1 to 3 got it, 4 to 7 wait, 8 is discarded, 9 expired at once, 10 opted out."""
    made = add_release(
        database, add_installation(database), recipients=10, messages=3, bypassed=[(10, "opted_out")]
    )
    add_results(database, made, [a_result(number) for number in (1, 2, 3)])
    _keep(database, made, HELD[:3], "held", "3 in 7 days")
    _keep(database, made, HELD[3:], "held", "1 in 1 days")
    _keep(database, made, [8], "discarded", "3 in 7 days")
    _keep(database, made, [9], "expired", "3 in 7 days")
    _wait(database, made, [*HELD, 9])
    _end(database, made, [9], "earlier_waits")
    return made


def test_whom_the_policy_keeps_has_a_line_of_his_own(database: Database, release: Release) -> None:
    counted = books_of(database, release.release_id)
    assert counted.balances, counted.explanation
    assert (counted.held, counted.discarded, counted.expired) == (4, 1, 1)
    assert dict(counted.bypassed) == {"opted_out": 1}
    assert (counted.assembled, counted.accepted) == (3, 3)
    assert counted.forbidden == {"3 in 7 days": 5, "1 in 1 days": 1}
    assert "4 held + 1 discarded + 1 expired" in counted.explanation
    assert "5 by 3 in 7 days, 1 by 1 in 1 days" in counted.explanation


def test_a_wait_that_ends_unsent_moves_to_another_line(database: Database, release: Release) -> None:
    for contact, ending, lines in (
        (4, "expired", (3, 1, 2)),
        (5, "deleted", (2, 2, 2)),
        (6, "campaign_deleted", (1, 2, 3)),
        (7, "stopped", (0, 2, 4)),
    ):
        _end(database, release, [contact], ending)
        counted = books_of(database, release.release_id)
        assert counted.balances, counted.explanation
        assert (counted.held, counted.discarded, counted.expired) == lines


def test_what_is_sent_later_is_counted_where_it_is(database: Database, release: Release) -> None:
    later = _a_later_release(database, release, HELD[:3], messages=2)
    add_results(database, later, [a_result(1)])
    _end(database, release, HELD[:2], "sent", later.release_id)
    _end(database, release, HELD[2:3], "policy_disabled", later.release_id)
    counted = books_of(database, release.release_id)
    assert counted.balances, counted.explanation
    assert (counted.recipients, counted.audience_rows) == (10, 10)
    assert (counted.held, counted.sent_later, counted.later_mail_jobs) == (1, 3, (later.release_id,))
    assert counted.bypassed == {"hard_bounce": 1, "opted_out": 1}
    assert (counted.assembled, counted.accepted, counted.waiting) == (5, 4, 1)
    # It has books of its own too.
    own = books_of(database, later.release_id)
    assert own.balances, own.explanation
    assert (own.recipients, own.bypassed_count, own.accepted, own.waiting) == (3, 1, 1, 1)


def test_what_came_back_from_a_later_mail_job_that_failed_waits_again(
    database: Database, release: Release
) -> None:
    failed = _a_later_release(database, release, HELD[:2], messages=2, state="FAILED")
    _end(database, release, HELD[:2], "sent", failed.release_id)
    assert books_of(database, release.release_id).sent_later == 2
    execute(database, "DELETE FROM held_mail_log WHERE later_release_id = :failed", failed=failed.release_id)
    _wait(database, release, HELD[:2])
    waits = books_of(database, release.release_id)
    assert waits.balances, waits.explanation
    assert (waits.held, waits.sent_later, waits.later_mail_jobs) == (4, 0, ())
    later = _a_later_release(database, release, HELD[:2], messages=2)
    _end(database, release, HELD[:2], "sent", later.release_id)
    sent = books_of(database, release.release_id)
    assert sent.balances, sent.explanation
    assert (sent.held, sent.sent_later, sent.later_mail_jobs) == (2, 2, (later.release_id,))


def test_a_dry_run_tells_who_would_be_held(database: Database) -> None:
    made = add_release(database, add_installation(database), recipients=5, messages=3, state="STOPPED")
    _keep(database, made, [4, 5], "held", "3 in 7 days")
    execute(database, "UPDATE release SET is_dry_run = true")
    counted = books_of(database, made.release_id)
    assert counted.balances, counted.explanation
    assert (counted.held, counted.stopped) == (2, 3)


FAULTS = (
    "DELETE FROM held_mail WHERE contact_id = 7",
    "DELETE FROM held_mail_log WHERE contact_id = 9",
    "DELETE FROM held_mail_log WHERE contact_id = 4",
    "DELETE FROM recipient WHERE recipient_no = 2 AND release_id > (SELECT min(release_id) FROM release)",
)


def test_a_held_mail_that_is_lost_or_there_twice_is_found(database: Database, release: Release) -> None:
    later = _a_later_release(database, release, HELD[:2], messages=2)
    _end(database, release, HELD[:2], "sent", later.release_id)
    assert books_of(database, release.release_id).balances
    for fault in FAULTS:
        with database.dedicated(autocommit=False) as connection:
            connection.execute(text(fault))
            counted = books(connection, release.release_id)
            # Not committed: the next fault finds the books as they were.
        assert not counted.balances, fault
        assert "ends of held mails too many" in counted.explanation

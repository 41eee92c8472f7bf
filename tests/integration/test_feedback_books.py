"""The books of releases in every state: they balance, or say which rows are missing or too many."""

from __future__ import annotations

import pytest

from mail_orchestration.feedback.books import Books, books
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import NotFound
from tests.integration.feedback_fixtures import (
    a_result,
    add_installation,
    add_mail_job,
    add_messages,
    add_release,
    add_results,
    books_of,
    execute,
    in_seconds,
)

pytestmark = pytest.mark.rule("1.8")


def test_a_release_that_is_just_made_balances_at_nothing(database: Database) -> None:
    release = add_release(database, add_installation(database), kind=None, state="QUEUING", assembled_up_to=0)
    execute(
        database,
        "UPDATE release SET resolved_at = NULL, audience_rows = NULL, duplicates = NULL, recipient_count = NULL",
    )
    counted = books_of(database, release.release_id)
    assert counted.balances
    assert (counted.audience_rows, counted.recipients, counted.assembled) == (0, 0, 0)


def test_a_release_in_the_middle_of_assembly(database: Database) -> None:
    release = add_release(
        database,
        add_installation(database),
        recipients=10,
        duplicates=4,
        kind=None,
        state="QUEUING",
        bypassed=[(2, "opted_out"), (9, "opted_out"), (10, "manual")],
        assembled_up_to=6,
    )
    add_messages(database, release.release_id, [1, 3, 4, 6])
    execute(
        database,
        "INSERT INTO bypass VALUES (:day, :id, 5, 'compose', 'template_error', 'line 3')",
        day=release.released_on,
        id=release.release_id,
    )
    counted = books_of(database, release.release_id)
    assert counted.balances, counted.explanation
    assert counted == Books(
        audience_rows=14,
        duplicates=4,
        recipients=10,
        bypassed={"opted_out": 2, "manual": 1, "template_error": 1},
        expired=0,
        unassembled=2,
        assembled=4,
        waiting=4,
        sending=0,
        accepted=0,
        deferred=0,
        rejected=0,
        uncertain=0,
        stopped=0,
    )


def test_a_parent_with_children_in_several_states(database: Database) -> None:
    installation_id = add_installation(database)
    release = add_release(
        database, installation_id, recipients=40, messages=40, kind="parent", state="P_ASSIGNED"
    )
    children = {
        state: add_mail_job(
            database,
            release.release_id,
            installation_id=installation_id,
            kind="child",
            state=state,
            first=first,
            last=first + 9,
        )
        for state, first in (("FINISHED", 1), ("RUNNING", 11), ("STOPPING", 21), ("FAILED", 31))
    }
    finished = [a_result(no) for no in range(1, 11)]
    finished[3] = a_result(4, Outcome.REJECTED)
    finished[4] = a_result(5, Outcome.DEFERRED)
    finished[5] = a_result(6, Outcome.UNCERTAIN)
    finished[6] = a_result(7, Outcome.STOPPED)
    finished[7] = a_result(8, Outcome.EXPIRED)
    # Tried again and accepted: the last result counts, in whatever order they are found, and whatever their clocks say.
    finished[8] = a_result(9, Outcome.DEFERRED, at=in_seconds(-60))
    finished.insert(0, a_result(9, result_no=2, supersedes=Outcome.DEFERRED))
    finished[10] = a_result(10, Outcome.UNCERTAIN, at=in_seconds(60))
    finished.append(a_result(10, result_no=2, supersedes=Outcome.UNCERTAIN))
    add_results(database, release, finished, children["FINISHED"])
    add_results(database, release, [a_result(no) for no in (11, 15)], children["RUNNING"])
    add_results(database, release, [a_result(31)], children["FAILED"])
    counted = books_of(database, release.release_id)
    assert counted.balances, counted.explanation
    assert (counted.waiting, counted.sending) == (9, 18)
    assert (counted.accepted, counted.deferred, counted.rejected) == (5 + 3, 1, 1)
    assert (counted.uncertain, counted.stopped, counted.expired) == (1, 1, 1)
    assert counted.assembled == 39


def test_what_waits_in_a_stopped_release_is_stopped(database: Database) -> None:
    release = add_release(database, add_installation(database), recipients=5, messages=5, state="STOPPED")
    counted = books_of(database, release.release_id)
    assert counted.balances
    assert (counted.stopped, counted.waiting) == (5, 0)


@pytest.mark.parametrize(
    ("fault", "explanation"),
    [
        ("DELETE FROM assembled_message WHERE message_no = 3", "1 places of recipients too few"),
        ("DELETE FROM recipient WHERE recipient_no = 3", "1 recipients too few"),
        (
            "INSERT INTO bypass SELECT released_on, release_id, 3, 'compose', 'empty', '' FROM release",
            "1 places of recipients too many",
        ),
        (
            "INSERT INTO result SELECT released_on, release_id, 77, release_id, 77, released_at, 'accepted',"
            " 250, NULL, NULL, 'r' FROM release",
            "1 results of messages that do not exist too many",
        ),
        (
            "INSERT INTO result SELECT released_on, release_id, 3, release_id, 3, released_at, 'accepted',"
            " 250, NULL, NULL, 'r', 2, 'uncertain' FROM release",
            "1 results that supersede what is not there too many",
        ),
        (
            "INSERT INTO result SELECT released_on, release_id, 3, release_id, 3, released_at, 'accepted',"
            " 250, NULL, NULL, 'r' FROM release, generate_series(1, 2)",
            "1 places of recipients too many",
        ),
    ],
)
def test_a_row_that_is_missing_or_too_many_is_found(database: Database, fault: str, explanation: str) -> None:
    release = add_release(database, add_installation(database), recipients=5, messages=5)
    assert books_of(database, release.release_id).balances
    execute(database, fault)
    counted = books_of(database, release.release_id)
    assert not counted.balances
    assert f"WRONG: {explanation}" in counted.explanation


def test_books_of_one_release_leave_out_those_of_another(database: Database) -> None:
    installation_id = add_installation(database)
    first, second = (add_release(database, installation_id, recipients=n, messages=n) for n in (3, 8))
    add_results(database, second, [a_result(1)])
    assert books_of(database, first.release_id).waiting + books_of(database, first.release_id).sending == 3
    assert books_of(database, second.release_id).accepted == 1


def test_a_release_that_is_not_there(database: Database) -> None:
    with pytest.raises(NotFound, match="there is no release 5"), database.begin() as connection:
        books(connection, 5)

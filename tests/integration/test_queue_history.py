"""What was queued lately is not queued again, by however many callers at once (spec 6.6)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from mail_orchestration.dispatch.queue_history import QueuedMail, remember
from mail_orchestration.kernel.database import Database

NOW = datetime(2026, 5, 20, 23, 59, tzinfo=UTC)
HISTORY = timedelta(days=7)

_SOMEBODY_WAITS = text(
    "SELECT pg_sleep(0.02), EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS waits"
)


def mail(
    address: str = "ann@example.com", *, campaign: int = 1, occurrence: str = "order 7", content: str = "a"
) -> QueuedMail:
    return QueuedMail(
        campaign_id=campaign, occurrence=occurrence, address_key=address, content_digest=content.encode()
    )


def asked(
    database: Database, *mails: QueuedMail, installation: int = 1, now: datetime = NOW
) -> Sequence[bool]:
    with database.begin() as connection:
        return remember(connection, installation, mails, history=HISTORY, now=now)


@pytest.mark.rule("6.6")
def test_a_mail_is_new_once_within_the_history(database: Database) -> None:
    assert asked(database) == []
    assert asked(database, mail(), mail("ben@example.com"), mail()) == [True, True, False]
    assert asked(database, mail("cid@example.com"), mail()) == [True, False]
    assert asked(database, mail(), now=NOW + HISTORY - timedelta(minutes=1)) == [False]
    assert asked(database, mail(), now=NOW + HISTORY) == [True]
    assert asked(database, mail(), now=NOW + HISTORY + timedelta(days=1)) == [False]


@pytest.mark.rule("6.6")
def test_another_campaign_occurrence_content_or_installation_makes_another_mail(database: Database) -> None:
    assert asked(database, mail()) == [True]
    others = [mail(campaign=2), mail(occurrence="order 8"), mail(content="b"), mail("a@nn.example.com")]
    assert asked(database, *others) == [True] * 4
    assert asked(database, mail(), installation=2) == [True]


@pytest.mark.rule("6.6")
def test_what_is_rolled_back_is_not_remembered(database: Database) -> None:
    with database.begin() as connection:
        assert remember(connection, 1, [mail()], history=HISTORY, now=NOW) == [True]
        connection.rollback()
    assert asked(database, mail()) == [True]


@pytest.mark.rule("6.6")
def test_ten_thousand_are_remembered_without_an_address(database: Database) -> None:
    mails = [mail(f"r{number}@example.com") for number in range(10_000)]
    assert all(asked(database, *mails))
    assert not any(asked(database, *mails))
    with database.begin() as connection:
        row = connection.execute(text("SELECT * FROM queue_history LIMIT 1")).one()
    assert {str(value) for value in row[:1]} == {"2026-05-20"}
    assert len(bytes(row.mail_key)) == 32


@pytest.mark.rule("6.5", "4.6")
@pytest.mark.parametrize("first_commits", [True, False])
def test_of_two_that_make_a_days_partitions_at_once_one_waits_for_the_other(
    database: Database, first_commits: bool
) -> None:
    """As all workers do at midnight."""
    make = text("SELECT ensure_day_partitions(CAST('2031-05-20' AS date))")

    def made_by_another() -> None:
        with database.begin() as another:
            another.execute(make)

    with ThreadPoolExecutor(max_workers=1) as pool, database.begin() as connection:
        connection.execute(make)
        second = pool.submit(made_by_another)
        _wait_until_somebody_waits(database, second)
        _end(connection, first_commits)
        second.result(timeout=60)
    with database.begin() as connection:
        assert connection.scalar(text("SELECT to_regclass('delivery_log_20310520') IS NOT NULL"))


@pytest.mark.rule("6.6")
@pytest.mark.parametrize("first_commits", [True, False])
def test_of_two_callers_at_once_one_waits_for_the_other(database: Database, first_commits: bool) -> None:
    mails = [mail(f"r{number}@example.com") for number in range(300)]
    for day in (NOW, NOW + timedelta(days=1)):
        asked(database, mail(), now=day)  # makes the partition, for which they would wait too

    with ThreadPoolExecutor(max_workers=1) as pool, database.begin() as connection:
        assert all(remember(connection, 1, mails, history=HISTORY, now=NOW))
        # After midnight: its rows are in another partition, where no index sees those of the first.
        second = pool.submit(asked, database, *reversed(mails), now=NOW + timedelta(minutes=2))
        _wait_until_somebody_waits(database, second)
        _end(connection, first_commits)
        assert second.result(timeout=60) == [not first_commits] * 300


def _wait_until_somebody_waits(database: Database, waiting: Future[Any]) -> None:
    while True:
        with database.begin() as looking:
            if looking.execute(_SOMEBODY_WAITS).one().waits:
                return
        assert not waiting.done()


def _end(connection: Connection, commits: bool) -> None:
    if commits:
        connection.commit()
    else:
        connection.rollback()

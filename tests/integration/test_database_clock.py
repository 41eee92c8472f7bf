"""The database's clock, carried on between two looks by the host's steady one."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from mail_orchestration.kernel import database_clock
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.database_clock import DatabaseClock, database_now


@pytest.mark.rule("5.2")
def test_it_passes_with_the_databases_clock_and_not_with_the_hosts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.begin() as connection:
        before = database_now(connection)
        clock = DatabaseClock(connection)
        # The host's wall clock goes an hour ahead: nothing here may look at it.
        monkeypatch.setattr(time, "time", lambda: 0.0)
        first, second = clock.now(), clock.now()
        after = database_now(connection)
    assert before <= first <= second <= after
    assert first.tzinfo is UTC or first.utcoffset() == timedelta(0)


@pytest.mark.rule("5.2")
def test_it_is_set_right_by_the_next_look(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.begin() as connection:
        clock = DatabaseClock(connection)
        stood_still = steady_seconds() - 3600
        with monkeypatch.context() as suspended:
            # A clock that missed an hour.
            suspended.setattr(database_clock, "steady_seconds", lambda: stood_still)
            assert database_now(connection) - clock.now() > timedelta(minutes=59)
            clock.set_by(connection)
            assert abs(database_now(connection) - clock.now()) < timedelta(minutes=1)
        assert isinstance(clock.now(), datetime)

"""Mailcasters whose clocks are hours apart, and two of one name: each recipient once, and nobody's work is stolen."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.kernel.states import MailJobState
from tests.scenarios.installations import addresses, released, site_with_sink, start_mailcaster, tally
from tests.scenarios.relays.postfix_sink import A_SECOND_EACH

CONTACTS = 240
PARAMETERS: dict[str, Any] = {
    "min_job_size": 20,
    "max_job_size": 60,
    "percentage_job_size": 10,
    "connections": 20,
}
HOUR_S = 3600.0


def _database_time(connection: Connection) -> datetime:
    found = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    assert isinstance(found, datetime)
    return found


@pytest.mark.rule("4.6")
@pytest.mark.rule("5.2")
@pytest.mark.parametrize(
    "fleet",
    [
        [("ahead", HOUR_S), ("behind", -3 * HOUR_S), ("far-ahead", 3 * HOUR_S)],
        [("one-name", 0.0), ("one-name", 0.0)],
    ],
    ids=["clocks apart", "one-name"],
)
def test_each_recipient_once_and_no_work_is_stolen(
    fleet: list[tuple[str, float]], tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = tmp_path / "begin"
    # Each message takes the relay a second, so that all of them are at work at once for some seconds.
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        sink_options=A_SECOND_EACH,
        contacts=CONTACTS,
        mailcasters=[{"name": name, **PARAMETERS} for name in dict.fromkeys(name for name, _ in fleet)],
        # By one that is off by an hour, everybody's heartbeat would be older than this, or in the future.
        dispatcher={"heartbeat_seconds": 0.5, "hang_after_seconds": 600},
    ) as (inst, sink):
        with inst.database.begin() as connection:
            before = _database_time(connection)
        release_id = released(inst)
        processes = [
            start_mailcaster(inst, name, clock_is_off_by_s=off_by, waits_for=begin) for name, off_by in fleet
        ]
        begin.touch()
        assert [process.wait(timeout=90) for process in processes] == [0] * len(fleet)

        with inst.database.begin() as connection:
            parts = children(connection, release_id)
            parent = mail_job(connection, release_id)
            moments = connection.execute(
                text(
                    "SELECT min(occurred_at), max(occurred_at) FROM result"
                    " UNION ALL SELECT min(started_at), max(heartbeat_at) FROM mail_job WHERE kind = 'child'"
                )
            )
            told = [moment for row in moments for moment in row]
            after = _database_time(connection)
        assert tally(inst, release_id).accepted == CONTACTS
        got = sink.tally()
    assert {part.state for part in parts} == {MailJobState.FINISHED}, "nobody's work was taken for hanging"
    assert {part.mailcaster for part in parts} == {name for name, _ in fleet}
    assert parent.state is MailJobState.P_FINISHED
    assert got == dict.fromkeys(addresses(CONTACTS), 1)
    leeway = timedelta(seconds=1)
    assert all(before - leeway <= moment <= after + leeway for moment in told), (
        "they bear the database's time"
    )

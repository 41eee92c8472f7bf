"""Dedup is killed, or its backend: it leaves nothing, is interrupted, and can be done again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import psycopg
import pytest

from mail_orchestration.audience.resolving import mark_interrupted
from mail_orchestration.kernel.errors import DatabaseUnavailable, StateConflict
from mail_orchestration.kernel.model import Recipient
from tests.integration.audience_world import NOW, World, component, world

__all__ = ["world"]

_SLOW = """
import sys, time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo
from pathlib import Path
from mail_orchestration.audience.resolving import resolve_recipients
from mail_orchestration.kernel.components import Component
from mail_orchestration.kernel.database import Database

def never_ends(batch):
    print("in the middle", flush=True)
    time.sleep(600)

with Database.open(sys.argv[1], Path("."), application_name="slow") as database:
    resolve_recipients(
        database, int(sys.argv[2]), small_audience_threshold=1, time_zone=ZoneInfo("UTC"),
        now=datetime(2026, 3, 2, 9, tzinfo=UTC),
        components=[Component(name="x", stage="filter", function=never_ends)],
    )
"""


@pytest.mark.rule("1.3", "3.2")
def test_dedup_that_was_killed_is_interrupted_and_can_be_done_again(world: World, database_url: str) -> None:
    audience = world.audience("members", "ann", "ben")
    release, waiting = world.release(audience), world.release(audience)
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, database_url, str(release)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in the middle\n"
        # It is slow, not dead: nobody may take it away, nor resolve it beside.
        assert mark_interrupted(world.database, NOW) == []
        with pytest.raises(StateConflict, match="another session"):
            world.resolve(release)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    _wait_until_gone(database_url, "slow")
    assert mark_interrupted(world.database, NOW) == [release]
    assert mark_interrupted(world.database, NOW) == []
    assert world.mail_job(release)[0] == "INTERRUPTED"
    assert world.mail_job(waiting)[0] == "QUEUING"
    assert world.recipients(release) == []
    world.rows(
        "UPDATE mail_job SET state = 'QUEUING' WHERE mail_job_id = :r AND state = 'INTERRUPTED' RETURNING 1",
        r=release,
    )
    assert world.resolve(release).recipients == 2
    assert mark_interrupted(world.database, NOW) == []


@pytest.mark.rule("1.3")
def test_a_backend_killed_in_mid_dedup_leaves_nothing(world: World, database_url: str) -> None:
    release = world.release(world.audience("members", "ann", "ben"))

    def kill_us(batch: Sequence[Recipient]) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )

    with pytest.raises(DatabaseUnavailable):
        world.resolve(release, components=[component("filter", kill_us)])
    assert mark_interrupted(world.database, NOW) == [release]
    assert world.recipients(release) == []


def _wait_until_gone(database_url: str, application_name: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        while connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()",
            [application_name],
        ).fetchone():
            connection.execute("SELECT pg_sleep(0.05)")

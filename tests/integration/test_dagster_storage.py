"""Dagster's storage keeps its connections: a daemon and its sensors' ticks do not open one for each statement."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import psycopg
import pytest
from sqlalchemy import text

from jobs.dagster_storage import KEPT
from mail_orchestration.cli.dagster_home import environment_for_dagster, write_dagster_home


@pytest.fixture
def dagster_home(tmp_path: Path, create_database: Callable[..., str]) -> Iterator[str]:
    """A DAGSTER_HOME with deploy/dagster.yaml on an empty database; the environment names the database."""
    url = create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA dagster")
    home = tmp_path / "home"
    write_dagster_home(home, code_server_port=1)
    with patch.dict(os.environ, environment_for_dagster(home, settings=tmp_path, database_url=url)):
        yield str(home)


def parts(instance: dg.DagsterInstance) -> list[Any]:
    """Of runs, of events and of schedules."""
    return [instance.run_storage, instance.event_log_storage, instance.schedule_storage]


def server_processes(instance: dg.DagsterInstance) -> set[int]:
    """Which processes of the server they speak to."""
    found = set()
    for part in parts(instance):
        connect = part._connect if part is instance.event_log_storage else part.connect
        with connect() as connection:
            found.add(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    return found


def test_instances_of_one_process_share_a_connection_and_keep_it(dagster_home: str) -> None:
    with dg.DagsterInstance.from_config(dagster_home) as first:
        of_first = server_processes(first)
        first.add_dynamic_partitions("mail_jobs", ["1"])
    with dg.DagsterInstance.from_config(dagster_home) as second:
        assert second.get_dynamic_partitions("mail_jobs") == ["1"]
        assert server_processes(second) == of_first
    assert len(of_first) == 1


def test_what_needs_more_at_a_moment_gets_more_and_no_more_than_some_stay(dagster_home: str) -> None:
    with dg.DagsterInstance.from_config(dagster_home) as instance:
        (engine,) = {part._engine for part in parts(instance)}
        opened = [engine.connect() for _ in range(KEPT + 4)]
        for connection in opened:
            connection.close()
        assert engine.pool.checkedin() == KEPT


def test_a_server_that_closed_the_connection_is_not_noticed(dagster_home: str, server_url: str) -> None:
    with dg.DagsterInstance.from_config(dagster_home) as instance:
        (process_id,) = server_processes(instance)
        with psycopg.connect(server_url, autocommit=True) as other:
            assert other.execute("SELECT pg_terminate_backend(%s, 5000)", [process_id]).fetchone() == (True,)
        assert instance.get_runs() == []
        assert process_id not in server_processes(instance)


def test_a_forked_process_has_connections_of_its_own(dagster_home: str) -> None:
    with dg.DagsterInstance.from_config(dagster_home) as instance:
        before = server_processes(instance)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(write, str(server_processes(instance)).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 100).decode() not in ("", str(before))
        assert server_processes(instance) == before

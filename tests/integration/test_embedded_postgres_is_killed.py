"""The embedded server is killed, or initdb before it: it is found dead and started again, and nothing is broken."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.embedded_postgres import cluster as cluster_module
from mail_orchestration.kernel.embedded_postgres.home import open_home
from mail_orchestration.kernel.errors import DatabaseUnavailable
from tests.integration.embedded_servers import (
    command_of,
    data_dir,
    is_up,
    let_go,
    pids_with,
    postmaster_pid,
    start_holder,
    url_of,
    wait_until_gone,
)

__all__ = ["data_dir"]


def test_a_killed_postmaster_is_followed_by_another_and_nothing_committed_is_lost(data_dir: Path) -> None:
    with EmbeddedServer.hold(data_dir) as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        busy = psycopg.connect(server.url)
        pid = postmaster_pid(data_dir)
        os.kill(pid, signal.SIGKILL)
        with EmbeddedServer.hold(data_dir) as second:
            assert postmaster_pid(data_dir) != pid
            with psycopg.connect(second.url) as connection:
                assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
        busy.close()
        assert is_up(server.url), "the first holder still holds it"


@pytest.mark.parametrize("milliseconds", [0, 50, 100, 200, 300, 450, 600])
def test_a_holder_killed_while_it_makes_the_cluster_leaves_nothing_broken(
    data_dir: Path, milliseconds: int
) -> None:
    with start_holder(data_dir) as holder:
        if wait_for_initdb(data_dir):
            time.sleep(milliseconds / 1000)
        holder.kill()
        holder.wait()
    with EmbeddedServer.hold(data_dir) as server:
        assert is_up(server.url)
    while initdb_pids(data_dir):  # the killed holder's
        time.sleep(0.01)
    with EmbeddedServer.hold(data_dir) as server:
        assert is_up(server.url)
    assert [path.name for path in (data_dir / "postgres").glob("data*")] == ["data"]


@pytest.mark.parametrize("milliseconds", [0, 50, 100, 200, 300])
def test_initdb_killed_in_mid_run_is_started_anew(data_dir: Path, milliseconds: int) -> None:
    with start_holder(data_dir) as holder:
        for pid in wait_for_initdb(data_dir):
            time.sleep(milliseconds / 1000)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        url = url_of(holder)
        assert is_up(url)
        let_go(holder)


def wait_for_initdb(data_dir: Path) -> list[int]:
    """The pids of initdb, or none when it was over before it was seen."""
    while not (data_dir / "postgres" / "data").exists():
        if pids := initdb_pids(data_dir):
            return pids
    return []


def initdb_pids(data_dir: Path) -> list[int]:
    return [pid for pid in pids_with(data_dir) if "/initdb\0" in command_of(pid)]


def test_a_recycled_pid_is_not_taken_for_the_server(data_dir: Path) -> None:
    with EmbeddedServer.hold(data_dir) as server:
        pid_file = data_dir / "postgres" / "data" / "postmaster.pid"
        remembered = pid_file.read_text()
        uid = open_home(data_dir).account.uid
        os.kill(postmaster_pid(data_dir), signal.SIGKILL)
        # A process of the server's own user is what PostgreSQL itself takes for its server.
        as_server = uid if os.geteuid() == 0 else None
        with subprocess.Popen(["sleep", "60"], user=as_server, cwd="/") as stranger:
            wait_until_gone(data_dir)
            pid_file.write_text("\n".join([str(stranger.pid), *remembered.splitlines()[1:]]) + "\n")
            assert server.ensure_running() == server.url
            assert is_up(server.url)
            assert stranger.poll() is None
            stranger.kill()


_PR_SET_CHILD_SUBREAPER = 36


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted as on Linux")
def test_a_killed_server_that_nobody_collects_is_not_taken_for_alive(data_dir: Path) -> None:
    """In a container whose pid 1 collects no dead children they stay as zombies; here this process adopts them."""
    adopt = ctypes.CDLL(None).prctl
    assert adopt(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    killed = 0
    try:
        with EmbeddedServer.hold(data_dir) as server:
            killed = postmaster_pid(data_dir)
            os.kill(killed, signal.SIGKILL)
            while psutil.Process(killed).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
            assert is_up(server.ensure_running())
            assert postmaster_pid(data_dir) != killed
            assert psutil.Process(killed).status() == psutil.STATUS_ZOMBIE
    finally:
        adopt(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        if killed:
            os.waitpid(killed, 0)


def test_processes_of_an_earlier_server_are_waited_for(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_RETRY_SECONDS", 0.3)
    server = EmbeddedServer.hold(data_dir)
    busy = psycopg.connect(server.url)
    backend = busy.info.backend_pid
    os.kill(backend, signal.SIGSTOP)
    os.kill(postmaster_pid(data_dir), signal.SIGKILL)
    wait_until_gone(data_dir)
    with pytest.raises(DatabaseUnavailable, match="processes of an earlier server still use the data folder"):
        server.ensure_running()
    os.kill(backend, signal.SIGKILL)
    monkeypatch.undo()
    assert is_up(server.ensure_running())
    busy.close()
    server.close()

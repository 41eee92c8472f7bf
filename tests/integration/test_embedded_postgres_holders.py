"""The embedded server lives as long as its holders, in however many processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.embedded_postgres.cluster import find_postmaster
from mail_orchestration.kernel.embedded_postgres.home import open_home
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


def test_four_processes_start_at_once_and_the_last_one_stops_the_server(data_dir: Path) -> None:
    with (
        start_holder(data_dir) as first,
        start_holder(data_dir) as second,
        start_holder(data_dir) as third,
        start_holder(data_dir) as last,
    ):
        url = url_of(first)
        assert [url_of(other) for other in (second, third, last)] == [url] * 3
        pid = postmaster_pid(data_dir)
        for holder in (first, second, third):
            let_go(holder)
            assert is_up(url)
        assert postmaster_pid(data_dir) == pid
        let_go(last)
        assert not is_up(url)
        assert find_postmaster(open_home(data_dir)) is None


def test_a_killed_holder_counts_no_longer(data_dir: Path) -> None:
    with EmbeddedServer.hold(data_dir) as server:
        with start_holder(data_dir) as holder:
            assert url_of(holder) == server.url
            holder.kill()
            holder.wait()
        assert is_up(server.url)
    assert not is_up(server.url)


def test_what_the_only_holder_leaves_when_killed_is_stopped(data_dir: Path) -> None:
    with start_holder(data_dir) as holder:
        url = url_of(holder)
        holder.kill()
        holder.wait()
    wait_until_gone(data_dir)
    assert not is_up(url)


def test_what_a_killed_holder_left_can_be_held_at_once(data_dir: Path) -> None:
    with start_holder(data_dir) as holder:
        url = url_of(holder)
        holder.kill()
        holder.wait()
    with EmbeddedServer.hold(data_dir) as server:
        assert server.url == url
        assert is_up(url)
        time.sleep(1.5)  # the keeper looks once a second
        assert is_up(url)
    assert not is_up(url)


def test_there_is_one_keeper_and_it_goes_with_the_server(data_dir: Path) -> None:
    with EmbeddedServer.hold(data_dir) as server:
        with EmbeddedServer.hold(data_dir):
            (keeper,) = keeper_pids(data_dir)
        os.kill(keeper, signal.SIGKILL)
        while keeper_pids(data_dir):
            time.sleep(0.01)
        with EmbeddedServer.hold(data_dir):
            assert len(keeper_pids(data_dir)) == 1
        assert is_up(server.url)
    while keeper_pids(data_dir):
        time.sleep(0.01)


def keeper_pids(data_dir: Path) -> list[int]:
    return [pid for pid in pids_with(data_dir) if "embedded_postgres.keeper" in command_of(pid)]


def test_a_forked_child_neither_holds_nor_stops_the_server(data_dir: Path) -> None:
    server = EmbeddedServer.hold(data_dir)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        server.close()
        os.write(write_end, b".")
        time.sleep(60)
        os._exit(0)
    os.read(read_end, 1)
    assert is_up(server.url)
    server.close()
    assert not is_up(server.url), "the child lives and yet does not keep the server up"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read_end)
    os.close(write_end)

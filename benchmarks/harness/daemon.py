"""Dagster's daemon on an installation, with all sensors on, as `mail-orchestration dev` starts it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
from sqlalchemy import text

from mail_orchestration.cli.dagster_home import (
    DEFINITIONS_MODULE,
    WORKSPACE_FILE,
    checkout,
    environment_for_dagster,
    write_dagster_home,
)
from mail_orchestration.cli.services import free_port
from mail_orchestration.installation import Installation
from mail_orchestration.processes.dagster_server import LOCATION_NAME

PATIENCE_S = 900.0


@contextmanager
def daemon(folder: Path, settings: Path, inst: Installation) -> Iterator[None]:
    """A code server and Dagster's daemon on the installation's database, with all sensors on.

    Without a server of its own the daemon would load the definitions anew every minute, which takes seconds of a core.
    """
    home, port = folder / "dagster", free_port()
    write_dagster_home(home, code_server_port=port)
    inst.database.ensure_schemas()
    environment = environment_for_dagster(home, settings=settings, database_url=inst.database.url)
    definitions = ("--module-name", DEFINITIONS_MODULE, "--working-directory", str(checkout()))
    where = ("--host", "127.0.0.1", "--port", str(port), "--location-name", LOCATION_NAME)
    commands = (
        ("dagster", "code-server", "start", *definitions, *where),
        ("dagster._daemon", "run", "--workspace", str(home / WORKSPACE_FILE)),
    )
    processes: list[subprocess.Popen[bytes]] = []
    with (folder / "daemon.log").open("wb") as log:
        try:
            for command in commands:
                started = subprocess.Popen(
                    [sys.executable, "-m", *command],
                    cwd=checkout(),
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                processes.append(started)
                wait_for_port(port)
            yield
        finally:
            for process in reversed(processes):
                end(process)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit("Dagster's code server does not listen")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: the single mailer lingers, and a code server at times waits for ever."""
    itself = psutil.Process(process.pid)
    family = [*itself.children(recursive=True), itself]
    for each in family:
        each.terminate()
    _, alive = psutil.wait_procs(family, timeout=30)
    for each in alive:
        each.kill()
    process.wait()


def is_so(inst: Installation, question: str) -> bool:
    with inst.database.begin() as connection:
        return bool(connection.scalar(text(question)))


def wait_until(inst: Installation, question: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so(inst, question):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE_S:g} s: {question}")
        time.sleep(0.2)

"""Dagster's daemon on an installation, with all sensors on, as `mail-orchestration dev` starts it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from sqlalchemy import text

from mail_orchestration.cli.dagster_home import (
    DEFINITIONS_MODULE,
    checkout,
    environment_for_dagster,
    write_dagster_home,
)
from mail_orchestration.installation import Installation

PATIENCE_S = 900.0


@contextmanager
def daemon(folder: Path, settings: Path, inst: Installation) -> Iterator[None]:
    """Dagster's daemon on the installation's database, with all sensors on."""
    home = folder / "dagster"
    write_dagster_home(home, code_server_port=1)
    inst.database.ensure_schemas()
    environment = environment_for_dagster(home, settings=settings, database_url=inst.database.url)
    with (folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dagster._daemon", "run"),
                *("--module-name", DEFINITIONS_MODULE, "--working-directory", str(checkout())),
            ],
            cwd=checkout(),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the daemon and what it started: the single mailer lingers."""
    started = psutil.Process(process.pid).children(recursive=True)
    for each in (*started, process):
        each.terminate()
    _, alive = psutil.wait_procs(started, timeout=30)
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

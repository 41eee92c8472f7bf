"""Dagster's real daemon, or its webserver, on a world's database, with deploy/dagster.yaml as its instance.

It ends with the test.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil
from sqlalchemy import text

from mail_orchestration.cli.dagster_home import environment_for_dagster, write_dagster_home
from mail_orchestration.cli.services import free_port
from mail_orchestration.dispatch.mail_jobs import mail_job
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dagster_fixtures import World

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 120.0
"""A busy machine takes many times the ten seconds of an idle one. Nothing is asserted about time."""


@dataclass
class Daemon:
    """The running daemon and its instance."""

    world: World
    instance: dg.DagsterInstance
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until(self, what: str, is_so: Callable[[], bool]) -> None:
        """Return once `is_so`; fail with its last words when it dies or patience ends."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            alive = self.process.poll() is None
            if not alive or time.monotonic() > deadline:
                words = self.log.read_text(encoding="utf-8", errors="replace")[-4000:]
                raise AssertionError(f"{what}: {'not yet' if alive else 'it died'}\n{words}")
            time.sleep(0.2)

    def state_of(self, release_id: int) -> MailJobState:
        """The mail job's state in the database."""
        with self.world.mail.shared().database.begin() as connection:
            return mail_job(connection, release_id).state

    def working_process(self, mailcaster: str) -> int:
        """The process of the mailcaster's present shift; 0 when there is none."""
        with self.world.mail.shared().database.begin() as connection:
            found: int | None = connection.execute(
                text("SELECT process_id FROM mailcaster_shift WHERE mailcaster = :name AND ended_at IS NULL"),
                {"name": mailcaster},
            ).scalar()
        return found or 0

    def runs(self, job: str) -> list[dg.DagsterRun]:
        """The job's runs, the newest first."""
        return list(self.instance.get_runs(dg.RunsFilter(job_name=job)))


@contextlib.contextmanager
def daemon_on(world: World) -> Iterator[Daemon]:
    """Run the daemon with all sensors on."""
    definitions = ("--module-name", "schedules.definitions", "--working-directory", str(REPOSITORY))
    with _running(world, "dagster._daemon", "run", *definitions) as running:
        yield running


@contextlib.contextmanager
def webserver_on(world: World) -> Iterator[tuple[str, dg.DagsterInstance]]:
    """Run the webserver, and no daemon: what is asked for stays in the queue of runs. Its address, and the instance."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    place = ("--host", "127.0.0.1", "--port", str(port), "--workspace", str(REPOSITORY / "workspace.yaml"))

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/server_info", timeout=5):
            return True
        return False

    with _running(world, "dagster_webserver", *place) as running:
        running.wait_until("the webserver answers", answers)
        yield url, running.instance


@contextlib.contextmanager
def _running(world: World, module: str, *arguments: str) -> Iterator[Daemon]:
    home = world.folder / "dagster home"
    write_dagster_home(home, code_server_port=1)
    world.mail.shared().database.ensure_schemas()
    environment = environment_for_dagster(
        home, settings=world.settings_file, database_url=world.mail.shared().database.url
    )
    log = world.folder / f"{module}.log"
    with in_environment(environment), dg.DagsterInstance.from_config(str(home)) as instance:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=REPOSITORY,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Daemon(world=world, instance=instance, process=process, log=log)
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the daemon, and then what it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        for child in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        _, alive = psutil.wait_procs(started, timeout=20)
        for child in alive:
            child.kill()
    if process.poll() is None:
        process.kill()
    process.wait()


@contextlib.contextmanager
def in_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """This process in that environment, as Dagster reads its own instance's address there."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)

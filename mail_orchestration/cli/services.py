"""The processes of an installation on one machine: started by name, watched, and ended with all that they started.

Each runs in a session of its own, so that Ctrl-C reaches this process alone and the end has an order: first who
hands out work, then the workers (a mailcaster finishes its messages in flight), last what they all need.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from mail_orchestration.cli.child import PR_SET_CHILD_SUBREAPER, prctl
from mail_orchestration.kernel.errors import Unavailable

GRACE_SECONDS = 20.0
"""How long a process may take to end before it is killed: a mailcaster waits for the replies in flight."""
ORPHANS_END_WITHIN_SECONDS = 5.0
LAST_LINES = 12
MARK = "MAIL_ORCHESTRATION_SERVICE_OF"
"""The environment variable by which a process is known as started here, however it was started."""


class ServiceFailed(Unavailable):
    """A process that the installation needs has ended or does not answer."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One running process and where it writes what it says."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    is_needed_by_workers: bool
    """Ended last, after the processes that others started."""

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])


class Services:
    """The processes that this one started; leaving the block ends them."""

    def __init__(self, *, folder: Path, logs: Path, environment: Mapping[str, str]) -> None:
        """They run in `folder`, write to `logs`, and get `environment` instead of this process's own."""
        self._folder = folder
        self._logs = logs
        self.environment = environment
        """Of what is started from now on."""
        self._services: list[Service] = []
        logs.mkdir(parents=True, exist_ok=True)
        # Workers are started by processes that end before them: so their parent becomes this one, which ends them.
        prctl(PR_SET_CHILD_SUBREAPER, 1)

    def start(self, name: str, module: str, *arguments: str, is_needed_by_workers: bool = False) -> Service:
        """Run `python -m module arguments…`; its output goes to `name`.log."""
        log = self._logs / f"{name}.log"
        command = [sys.executable, "-m", module, *arguments]
        guard = [sys.executable, "-m", "mail_orchestration.cli.child", str(os.getpid())]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*guard, *command],
                cwd=self._folder,
                env={**self.environment, MARK: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        service = Service(name=name, process=process, log=log, is_needed_by_workers=is_needed_by_workers)
        self._services.append(service)
        return service

    def require_alive(self) -> None:
        """Raise ServiceFailed, with the end of its log, when one has ended."""
        for service in self._services:
            code = service.process.poll()
            if code is not None:
                raise ServiceFailed(
                    f"{service.name} has ended with {code}; the end of {service.log}:\n{service.last_words()}"
                )

    def wait_for_file(self, service: Service, file: Path, *, seconds: float) -> str:
        """The text of a file that `service` makes when it is ready."""
        deadline = time.monotonic() + seconds
        while not file.exists():
            self._wait_a_moment(service, deadline)
        return file.read_text(encoding="utf-8")

    def wait_for_port(self, service: Service, port: int, *, seconds: float) -> None:
        """Return once `service` takes connections on a port of the loopback interface."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            self._wait_a_moment(service, deadline)

    def wait_for_http(self, service: Service, url: str, *, seconds: float) -> None:
        """Return once `url` answers with 200."""
        opener = _without_proxy()
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(urllib.error.URLError, OSError), opener.open(url, timeout=5):
                return
            self._wait_a_moment(service, deadline)

    def ask(self, url: str) -> bytes:
        """What `url` of one of our services answers."""
        with _without_proxy().open(url, timeout=30) as answer:
            return bytes(answer.read())

    def stop(self) -> None:
        """End everything that was started here, and what that started in turn, but the database's server."""
        first = [service.process for service in self._services if not service.is_needed_by_workers]
        last = [service.process for service in self._services if service.is_needed_by_workers]
        kept = {process.pid for process in last}
        _end([psutil.Process(process.pid) for process in first if process.poll() is None])
        _end([process for process in _descendants() if process.pid not in kept])
        _end([psutil.Process(process.pid) for process in last if process.poll() is None])
        for service in self._services:
            service.process.wait()
        self._services.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_a_moment(self, service: Service, deadline: float) -> None:
        self.require_alive()
        if time.monotonic() > deadline:
            raise ServiceFailed(
                f"{service.name} does not answer; the end of {service.log}:\n{service.last_words()}"
            )
        time.sleep(0.1)


def free_port(preferred: int = 0) -> int:
    """A port of the loopback interface that nobody listens on: `preferred` when it is free."""
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As servers do; else a port that was just in use counts as taken for a minute.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise ServiceFailed("no port of 127.0.0.1 is free")


def _without_proxy() -> urllib.request.OpenerDirector:
    """No proxy of the environment stands between two processes of one machine."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _descendants() -> list[psutil.Process]:
    """What our services started in turn, known by their environment: the database's server has its own end."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(os.getpid()):
                found.append(process)
    return found


def _end(processes: Sequence[psutil.Process]) -> None:
    """SIGTERM, time to finish, then SIGKILL."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def await_orphans() -> None:
    """Wait for what is left below this process, such as the database's keeper, to end by itself, and reap it."""
    psutil.wait_procs(psutil.Process().children(recursive=True), timeout=ORPHANS_END_WITHIN_SECONDS)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass

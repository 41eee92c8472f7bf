"""Dagster's daemon, webserver and code server on the site, each killed with -9 and started again.

While they run they do what the assembler does otherwise, and two mailcasters of their own work beside the fleet.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import text

from mail_orchestration.cli.dagster_home import (
    DEFINITIONS_MODULE,
    LOCATION_NAME,
    WORKSPACE_FILE,
    checkout,
    environment_for_dagster,
    write_dagster_home,
)
from mail_orchestration.cli.services import Service, Services, free_port
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import DatabaseUnavailable
from tests.chaos.incidents import Incident
from tests.chaos.plan import Kind
from tests.chaos.site import Mailcaster, Site

PLACES = ("dagster-1", "dagster-2")
SETTINGS = "dagster.yaml"
ANSWERS_WITHIN_S = 120.0
HEARTBEAT = text(
    "SELECT extract(epoch FROM max(timestamp) AT TIME ZONE 'UTC')::float8 FROM dagster.daemon_heartbeats"
)


def mailcasters(connections: int) -> list[Mailcaster]:
    """Those that Dagster's sensor wakes."""
    parameters = {"min_job_size": 100, "max_job_size": 400, "percentage_job_size": 10.0}
    return [Mailcaster(name=name, parameters={**parameters, "connections": connections}) for name in PLACES]


@dataclass
class DagsterStack:
    """The three services. `start`, `kill` them in turn, `stop`."""

    site: Site
    inst: Installation
    _services: Services | None = None
    _running: dict[Kind, Service] = field(default_factory=dict)
    _ports: dict[Kind, int] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._services is not None

    def start(self, turn: Callable[[], None]) -> None:
        """All three; returns when the web page answers. `turn` is called again and again meanwhile."""
        home = self.site.folder / "dagster"
        self._ports = {Kind.CODE_SERVER: free_port(), Kind.WEBSERVER: free_port()}
        write_dagster_home(home, code_server_port=self._ports[Kind.CODE_SERVER])
        self.inst.database.ensure_schemas()
        environment = environment_for_dagster(
            home, settings=self.site.folder / SETTINGS, database_url=self.inst.database.url
        )
        environment = {**environment, "DATABASE_URL": self.inst.database.url}
        self._services = Services(
            folder=self.site.folder, logs=self.site.folder / "logs", environment=environment
        )
        for kind in (Kind.CODE_SERVER, Kind.DAEMON, Kind.WEBSERVER):
            self._start(kind)
            if kind in self._ports:
                deadline = time.monotonic() + ANSWERS_WITHIN_S
                while not self._answers(kind):
                    if time.monotonic() > deadline:
                        raise TimeoutError("Dagster does not come up; see logs in the run's folder")
                    turn()

    def kill(self, kind: Kind) -> None:
        """With -9, and start it again at once."""
        process = self._running[kind].process
        process.kill()
        process.wait()
        self._start(kind)

    def is_back(self, incident: Incident) -> bool:
        """Whether the service that was killed does its work again."""
        if incident.kind in self._ports:
            return self._answers(incident.kind)
        with contextlib.suppress(DatabaseUnavailable), self.inst.database.begin() as connection:
            return bool((connection.execute(HEARTBEAT).scalar() or 0.0) > incident.at + 1.0)
        return False

    def stop(self) -> None:
        """End them and what they started; a mailcaster that works finishes its messages in flight."""
        if self._services is not None:
            self._services.stop()
            self._services = None
        with contextlib.suppress(ChildProcessError):
            # Orphans of services that were killed became ours.
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _start(self, kind: Kind) -> None:
        assert self._services is not None
        workspace = str(self.site.folder / "dagster" / WORKSPACE_FILE)
        match kind:
            case Kind.CODE_SERVER:
                service = self._services.start(
                    "code-server",
                    "dagster",
                    *("code-server", "start", "--module-name", DEFINITIONS_MODULE),
                    *("--working-directory", str(checkout()), "--host", "127.0.0.1"),
                    *("--port", str(self._ports[kind]), "--location-name", LOCATION_NAME),
                )
            case Kind.DAEMON:
                service = self._services.start("daemon", "dagster._daemon", "run", "--workspace", workspace)
            case Kind.WEBSERVER:
                service = self._services.start(
                    "webserver",
                    "dagster_webserver",
                    *("--host", "127.0.0.1", "--port", str(self._ports[kind]), "--workspace", workspace),
                )
            case _:
                raise ValueError(f"{kind} is no service of Dagster's")
        self._running[kind] = service

    def _answers(self, kind: Kind) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._ports[kind]), timeout=1),
        ):
            return True
        return False

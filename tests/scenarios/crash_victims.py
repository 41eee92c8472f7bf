"""A server of processes that die: it has everything imported, so that a victim costs a fork and not a second.

`python -m tests.scenarios.crash_victims` reads one JSON object a line, a `Victim`, and answers each with a `Death` when
the victim has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mail_orchestration.installation import open_installation
from mail_orchestration.kernel import crash_points
from tests.line_server import LineServer, answer_lines, run_in_fork
from tests.scenarios.crash_course import Interference, run_course

PATIENCE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A process that runs the course from a step on, and dies where it is told."""

    settings: str
    crash_at: str
    first: str
    interference: dict[str, bool]


@dataclass(frozen=True, kw_only=True)
class Death:
    """How it ended."""

    signal: int
    """0: it came to the end of the course."""
    exit_code: int
    said: str
    """On stderr."""


class VictimServer(LineServer):
    """`with VictimServer() as server: server.run(victim, environment)`."""

    def run(self, victim: Victim, environment: dict[str, str]) -> Death:
        """Let it live until it dies."""
        return Death(**self.ask({"victim": asdict(victim), "environment": environment}))


def _kill(order: dict[str, Any]) -> dict[str, Any]:
    victim = Victim(**order["victim"])
    code, said = run_in_fork(lambda: _live(victim, order["environment"]), _wait_for_death)
    return asdict(Death(signal=max(0, -code), exit_code=max(0, code), said=said))


def _live(victim: Victim, environment: dict[str, str]) -> int:
    os.setsid()
    # Its own processes read the variable when they start, as this one would have.
    os.environ.update(environment, CRASH_AT=victim.crash_at)
    crash_points.arm(victim.crash_at)
    with open_installation(Path(victim.settings), application_name="victim") as inst:
        run_course(inst, victim.first, Interference(**victim.interference))
    return 0


def _wait_for_death(pid: int) -> int:
    until = time.monotonic() + PATIENCE_S
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGABRT)
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it started dies with it, as in a container
    return os.waitstatus_to_exitcode(ended[1])


if __name__ == "__main__":
    answer_lines(_kill)

"""A server of processes that die: it has everything imported, so that a victim costs a fork and not a second.

`python -m tests.scenarios.crash_victims` reads one JSON object a line, a `Victim`, and answers each with a `Death` when
the victim has ended. It has no thread, no event loop and no connection that a fork could break.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mail_orchestration.installation import open_installation
from mail_orchestration.kernel import crash_points
from tests.scenarios.crash_course import Interference, run_course

ROOT = Path(__file__).resolve().parents[2]
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


class VictimServer:
    """The server's other side: `with VictimServer() as server: server.run(victim)`."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.scenarios.crash_victims"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)

    def run(self, victim: Victim, environment: dict[str, str]) -> Death:
        """Let it live until it dies."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"victim": dataclasses.asdict(victim), "environment": environment}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Death(**json.loads(self._process.stdout.readline()))


def serve() -> None:
    """Answer line by line until stdin ends."""
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        victim = Victim(**order["victim"])
        with tempfile.TemporaryFile() as said:
            pid = os.fork()
            if pid == 0:
                _live(victim, order["environment"], said.fileno())
            death = _await_death(pid)
            said.seek(0)
            death = dataclasses.replace(death, said=said.read().decode(errors="replace"))
        sys.stdout.write(json.dumps(dataclasses.asdict(death)) + "\n")
        sys.stdout.flush()


def _live(victim: Victim, environment: dict[str, str], said: int) -> None:
    exit_code = 1
    try:
        os.setsid()
        os.dup2(said, 2)
        # Its own processes read the variable when they start, as this one would have.
        os.environ.update(environment, CRASH_AT=victim.crash_at)
        crash_points.arm(victim.crash_at)
        with open_installation(Path(victim.settings), application_name="victim") as inst:
            run_course(inst, victim.first, Interference(**victim.interference))
        exit_code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(exit_code)


def _await_death(pid: int) -> Death:
    until = time.monotonic() + PATIENCE_S
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGABRT)
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it started dies with it, as in a container
    code = os.waitstatus_to_exitcode(ended[1])
    return Death(signal=max(0, -code), exit_code=max(0, code), said="")


if __name__ == "__main__":
    serve()

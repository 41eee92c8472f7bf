"""Shifts of mailcasters, each in a process of its own as under Dagster. They begin together.

python -m benchmarks.harness.shift SETTINGS MAILCASTER SECONDS
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.harness.cpu import cpu_seconds


@dataclass(frozen=True, slots=True)
class Shift:
    """What a mailcaster's process did and took."""

    messages: int
    seconds: float
    cpu_seconds: float
    """Of both the start of the process is no part."""
    peak_megabytes: int
    was_stopped: bool
    """By its time: it had work left."""

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds


def shifts(settings: Path, mailcasters: Sequence[str] = ("m1",)) -> list[Shift]:
    """A shift of each, all at once, until nothing is left."""
    return shifts_beside([(settings, name) for name in mailcasters])


def shifts_beside(each: Sequence[tuple[Path, str]], seconds: float = threading.TIMEOUT_MAX) -> list[Shift]:
    """The same with settings of their own, for at most so many seconds."""
    command = [sys.executable, "-m", "benchmarks.harness.shift"]
    running = [
        subprocess.Popen(
            [*command, str(settings), name, str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for settings, name in each
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
    told = [process.stdout.read() for process in running if process.stdout is not None]
    if any(process.wait() for process in running):
        raise SystemExit("a mailcaster's shift failed")
    return [Shift(**json.loads(shift)) for shift in told]


def _work(settings: Path, name: str, seconds: float) -> Shift:
    from mail_orchestration.installation import open_installation
    from mail_orchestration.mailcaster import run_shift

    with open_installation(settings, application_name=name) as inst:
        stop = threading.Event()
        timer = threading.Timer(seconds, stop.set)
        timer.daemon = True
        print("ready", flush=True)
        sys.stdin.read()
        timer.start()
        before = cpu_seconds()
        summary = run_shift(inst, name, stop=stop)
        used = cpu_seconds() - before
    return Shift(
        messages=summary.messages,
        seconds=summary.seconds,
        cpu_seconds=used,
        peak_megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        was_stopped=summary.ended_because == "stopped",
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_work(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))))

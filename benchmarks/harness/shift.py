"""One shift of a mailcaster, in a process of its own as under Dagster.

python -m benchmarks.harness.shift SETTINGS MAILCASTER
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


@dataclass(frozen=True, slots=True)
class Shift:
    """What a mailcaster's process did and took."""

    messages: int
    seconds: float
    """Without the start of the process."""
    cpu_seconds: float
    """With it."""
    peak_megabytes: int

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds


def shifts(settings: Path, mailcasters: Sequence[str] = ("m1",)) -> list[Shift]:
    """A shift of each, all at once."""
    command = [sys.executable, "-m", "benchmarks.harness.shift", str(settings)]
    running = [subprocess.Popen([*command, name], stdout=subprocess.PIPE) for name in mailcasters]
    told = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a mailcaster's shift failed")
    return [Shift(**json.loads(each)) for each in told]


def _work(settings: Path, name: str) -> Shift:
    from mail_orchestration.installation import open_installation
    from mail_orchestration.mailcaster import run_shift

    with open_installation(settings, application_name=name) as inst:
        summary = run_shift(inst, name, stop=threading.Event())
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Shift(
        messages=summary.messages,
        seconds=summary.seconds,
        cpu_seconds=used.ru_utime + used.ru_stime,
        peak_megabytes=used.ru_maxrss // 1024,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_work(Path(sys.argv[1]), sys.argv[2]))))

"""What a sandbox does not bound: time and memory of one message, in the process that composes it.

Three nets, each for what slips through the one before: an exception after so much CPU time (loops), a limit
on memory that turns into MemoryError (`"a" * 10**9`), and the kernel's end of the process (one step in C that
never returns).
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_PAGE = resource.getpagesize()


class TookTooLong(BaseException):
    """The message took more CPU time than one message may. No `except Exception` on the way catches it."""


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise TookTooLong


def install_cpu_limit() -> None:
    """Make `cpu_limit` work in this process. Call it in the main thread."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGVTALRM, _interrupt)


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise `TookTooLong` after `seconds` of CPU time; let the kernel end the process 3 s later.

    Both are timers that count from now. RLIMIT_CPU, which counts from the process' start, would end innocent ones: the
    kernel samples what it compares with it by ticks, and after a minute on a busy machine that is seconds apart from
    what `time.process_time` says.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds + 3)  # SIGPROF, which nobody handles, ends the process
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def limit_memory(megabytes: int) -> None:
    """Let this process take `megabytes` more than it holds now; what asks for more gets MemoryError."""
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + megabytes * 1_000_000, hard))

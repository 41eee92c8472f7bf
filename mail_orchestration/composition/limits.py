"""What a sandbox does not bound: time and memory of one message, in the process that composes it.

Three nets, each for what slips through the one before: an exception after so much CPU time (loops), a limit
on memory that turns into MemoryError (`"a" * 10**9`), and the kernel's end of the process (one step in C that
never returns).
"""

from __future__ import annotations

import resource
import signal
import time
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
    signal.signal(signal.SIGVTALRM, _interrupt)


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise `TookTooLong` after `seconds` of CPU time; let the kernel end the process 3 s later."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time() + seconds) + 3
    resource.setrlimit(
        resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def limit_memory(megabytes: int) -> None:
    """Let this process take `megabytes` more than it holds now; what asks for more gets MemoryError."""
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + megabytes * 1_000_000, hard))

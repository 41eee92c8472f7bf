"""Locks on files that the kernel drops when a process dies, however it dies.

`flock` belongs to the open file, so every `FileLock` opens its own. A child made by `fork` would share it and
keep it beyond its parent's death: the child closes its copy at once, and one made by `exec` never gets it.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from pathlib import Path

from mail_orchestration.kernel.errors import DatabaseUnavailable

_PAUSE_SECONDS = 0.02


class FileLock:
    """One process's grip on a lock file, shared or exclusive or none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _OPEN.add(self)

    def share(self) -> None:
        """Take the lock together with others; waits for one who has it alone."""
        fcntl.flock(self.fd, fcntl.LOCK_SH)

    def try_alone(self) -> bool:
        """Take the lock alone, if nobody has it. Drop a shared grip of our own before."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def wait_alone(self, seconds: float, purpose: str) -> None:
        """Take the lock alone within `seconds`; DatabaseUnavailable, saying `purpose`, when it is kept."""
        deadline = time.monotonic() + seconds
        while not self.try_alone():
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"{self.path}: kept by another process for {seconds:.0f} s; {purpose}"
                )
            time.sleep(_PAUSE_SECONDS)

    def drop(self) -> None:
        """Let the lock go, also for a child that shares the open file between fork and exec."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file. The lock stays with a child that the file was passed to."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def is_open(self) -> bool:
        """False after `close`, and in a forked child."""
        return self.fd >= 0


_OPEN: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_all_in_child() -> None:
    for lock in list(_OPEN):
        lock.close()


os.register_at_fork(after_in_child=_close_all_in_child)

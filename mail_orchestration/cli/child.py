"""`python -m mail_orchestration.cli.child PARENT COMMAND…`: becomes COMMAND, which ends when its parent is gone.

The kernel sends the signal (prctl), so a parent that was killed with -9 leaves nothing running either.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> bool:
    """Linux's prctl(2); False where the system has none."""
    call = getattr(ctypes.CDLL(None), "prctl", None)
    return call is not None and call(option, value, 0, 0, 0) == 0


def become(parent: int, command: list[str]) -> None:
    """Replace this process by `command`, which gets SIGTERM when `parent` ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(f"the parent {parent} has ended already")
    os.execvp(command[0], command)  # noqa: S606 - a fixed command of ours, without a shell


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])

"""Stops the server when its last holder was killed and could not.

    python -m mail_orchestration.kernel.embedded_postgres.keeper <folder>

A process of a few megabytes beside the server, started with it and ending with it. It imports nothing but the
standard library and this package.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

from mail_orchestration.kernel.embedded_postgres import cluster
from mail_orchestration.kernel.embedded_postgres.account import server_account
from mail_orchestration.kernel.embedded_postgres.home import Home
from mail_orchestration.kernel.embedded_postgres.locks import FileLock

_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_LOOK_SECONDS = 1.0


def ensure_keeper(home: Home) -> None:
    """Start a keeper unless one lives. It inherits its lock, so there is never a second one."""
    lock = FileLock(home.keeper_lock)
    try:
        if not sys.executable or not lock.try_alone():
            return
        subprocess.run(
            ["sh", "-c", '"$@" &', "sh", sys.executable, "-S", "-m", __name__, str(home.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(_PACKAGE_ROOT)},
            cwd="/",
            pass_fds=(lock.fd,),
            start_new_session=True,
            check=False,
        )
    finally:
        lock.close()


def keep(home: Home) -> None:
    """Look once a second: return when no server runs, stop it when nobody holds it."""
    while cluster.find_postmaster(home) is not None:
        lifecycle, holders = FileLock(home.lifecycle_lock), FileLock(home.holders_lock)
        try:
            # Under the lifecycle lock, so that who closes never mistakes us for a holder.
            if lifecycle.try_alone() and holders.try_alone():
                cluster.stop(home)
        finally:
            holders.close()
            lifecycle.close()
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    # A folder that was deleted has nothing to keep.
    with contextlib.suppress(FileNotFoundError):
        keep(Home(folder=folder, account=server_account(folder / "data")))

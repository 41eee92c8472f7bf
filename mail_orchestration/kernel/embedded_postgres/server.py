"""Holding the embedded server: it runs for as long as anyone does."""

from __future__ import annotations

import atexit
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from mail_orchestration.kernel.embedded_postgres import cluster
from mail_orchestration.kernel.embedded_postgres.home import Home, disk_errors, open_home
from mail_orchestration.kernel.embedded_postgres.keeper import ensure_keeper
from mail_orchestration.kernel.embedded_postgres.locks import FileLock

_LIFECYCLE_SECONDS = 660.0
"""Longer than a start with recovery takes, so that who waits sees its end."""


class EmbeddedServer:
    """One process's hold on the server of a data folder.

    Whoever holds it may connect to `url`. A child process takes its own hold. A holder that is killed counts
    no longer; if it was the last one the keeper stops the server a second later.
    """

    def __init__(self, home: Home) -> None:
        """Use `hold`."""
        self._home = home
        self._mutex = threading.Lock()
        with disk_errors(home.folder):
            self._holders = FileLock(home.holders_lock)
        try:
            with _Lifecycle(home):
                self._holders.share()
                self._socket_folder = cluster.ensure_running(home)
                ensure_keeper(home)
                home.bound_log()
        except BaseException:
            self._holders.close()
            raise
        atexit.register(self.close)

    @classmethod
    def hold(cls, data_dir: Path) -> Self:
        """Start the server of `data_dir` unless it runs, and keep it running until `close` or our end.

        Raises DatabaseUnavailable, which names the folder, when it does not start (a full disk, say), and
        BadSettings when the folder belongs to another user.
        """
        return cls(open_home(data_dir))

    @property
    def url(self) -> str:
        """Where to connect, in libpq's form. No password: the socket's folder is closed to others."""
        return (
            f"postgresql://{cluster.USER_NAME}@/{cluster.DATABASE_NAME}"
            f"?host={quote(str(self._socket_folder), safe='/')}"
        )

    @property
    def folder(self) -> Path:
        """Where the server's files are."""
        return self._home.folder

    def ensure_running(self) -> str:
        """Start the server again if it died under us; returns `url`."""
        with self._mutex, _Lifecycle(self._home):
            self._socket_folder = cluster.ensure_running(self._home)
            ensure_keeper(self._home)
        return self.url

    def close(self) -> None:
        """Let go; the last one stops the server. Closing twice, or in a forked child, does nothing."""
        with self._mutex:
            if not self._holders.is_open:
                return
            atexit.unregister(self.close)
            with _Lifecycle(self._home):
                self._holders.drop()
                if self._holders.try_alone():
                    cluster.stop(self._home)
                self._holders.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Lifecycle:
    """The lifecycle lock, held for a block."""

    def __init__(self, home: Home) -> None:
        with disk_errors(home.folder):
            self._lock = FileLock(home.lifecycle_lock)

    def __enter__(self) -> None:
        try:
            self._lock.wait_alone(_LIFECYCLE_SECONDS, "it starts or stops the embedded database")
        except BaseException:
            self._lock.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.drop()
        self._lock.close()

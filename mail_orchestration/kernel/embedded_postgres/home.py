"""The embedded server's folders.

    <data_dir>/postgres/    ours (0700; 0711 as root, so that the server's account can pass)
        data/               the cluster, the server's alone
        socket/             the Unix socket, 0700, unless the path would be too long for one
        server.log          what the server says; server.log.1 before that
        postgresql.conf     written at every start; `ALTER SYSTEM` goes to data/ and wins over it
        *.lock              who starts, who uses, what runs

As root the server's account may be unable to enter `data_dir`, as under /root. Then `postgres` is a link to a
folder in /var/lib/mail_orchestration.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mail_orchestration.kernel.embedded_postgres.account import Account, server_account
from mail_orchestration.kernel.errors import BadSettings, DatabaseUnavailable

_SOCKET_NAME = "/.s.PGSQL.5432"
_LONGEST_SOCKET_PATH = 90
"""Bytes. Linux has 107, other systems and tools less."""
_LONGEST_LOG = 8 * 1024 * 1024
_ELSEWHERE = Path("/var/lib/mail_orchestration")
_SHORT_FOLDER = Path("/tmp")  # noqa: S108 - the folder made in it is checked to be the server's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where everything of one embedded server lies, and as whom it runs."""

    folder: Path
    account: Account

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def config(self) -> Path:
        return self.folder / "postgresql.conf"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def copies(self) -> Path:
        return self.folder / "binaries"

    @property
    def lifecycle_lock(self) -> Path:
        """Held alone while the server is started or stopped."""
        return self.folder / "lifecycle.lock"

    @property
    def holders_lock(self) -> Path:
        """Shared by all processes that use the server."""
        return self.folder / "holders.lock"

    @property
    def server_lock(self) -> Path:
        """Held alone by the server's processes, the last of which may outlive the first."""
        return self.folder / "server.lock"

    @property
    def keeper_lock(self) -> Path:
        """Held alone by the keeper."""
        return self.folder / "keeper.lock"

    def make_socket_folder(self) -> Path:
        """The folder for the socket, made when missing.

        Raises DatabaseUnavailable when another user made it before us.
        """
        folder = self.folder / "socket"
        if len(os.fsencode(folder)) + len(_SOCKET_NAME) >= _LONGEST_SOCKET_PATH:
            key = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
            folder = _SHORT_FOLDER / f"mail-orchestration-{self.account.uid}-{key}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            self.account.give(folder)
        found = folder.lstat()
        # A process that was killed between mkdir and chown leaves the folder to root.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and self.account.is_dropped_to:
            self.account.give(folder)
            found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != self.account.uid or found.st_mode & 0o077:
            raise DatabaseUnavailable(
                f"{folder}: the database's socket folder must be a folder of user {self.account.uid} "
                "with mode 0700, and this one is not"
            )
        return folder

    def bound_log(self) -> None:
        """Keep the log to two files of 8 MB, also under a running server (it appends, so cutting is safe)."""
        if self.log.exists() and self.log.stat().st_size > _LONGEST_LOG:
            shutil.copyfile(self.log, self.folder / "server.log.1")
            os.truncate(self.log, 0)


def open_home(data_dir: Path) -> Home:
    """The server's home under `data_dir`, made when missing; many processes may do so at once.

    Raises BadSettings when it belongs to another user, DatabaseUnavailable when it cannot be made.
    """
    place = data_dir.absolute() / "postgres"
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink() and not place.exists():
            raise DatabaseUnavailable(f"{place} leads to {place.readlink()}, which is gone")
        account = server_account(place / "data")
        if not place.exists():
            _make(place, account)
        folder = place.resolve()
        owner = folder.stat().st_uid
        if owner != os.geteuid():
            raise BadSettings(
                f"{place} belongs to user {owner}, and this process runs as user {os.geteuid()}: "
                "run it as the same user, name another data_dir, or set DATABASE_URL"
            )
        folder.chmod(0o711 if account.is_dropped_to else 0o700)
        if not account.can_enter(folder):
            raise DatabaseUnavailable(
                f"{folder}: user {account.uid}, as whom PostgreSQL runs, may not enter it"
            )
    return Home(folder=folder, account=account)


def _make(place: Path, account: Account) -> None:
    with contextlib.suppress(FileExistsError):
        if account.can_enter(place.parent):
            place.mkdir(mode=0o711 if account.is_dropped_to else 0o700)
            return
        _ELSEWHERE.mkdir(mode=0o755, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{place.parent.parent.name or 'data'}-", dir=_ELSEWHERE))
        try:
            place.symlink_to(folder)
        except FileExistsError:
            folder.rmdir()


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses (no space, no permission, read-only) into DatabaseUnavailable."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        raise DatabaseUnavailable(
            f"the embedded database in {folder}: {place}: {error.strerror or error}"
        ) from error

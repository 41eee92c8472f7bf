"""As which user of the system the server runs.

PostgreSQL refuses to run as root. Then an account is taken that every Debian or Docker image has; none is
made, and no folder that is not ours changes its mode.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mail_orchestration.kernel.errors import DatabaseUnavailable

_UNPRIVILEGED_NAMES = ("postgres", "nobody")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user of the system; `is_dropped_to` when this process is root and its children must not be."""

    uid: int
    gid: int
    is_dropped_to: bool

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        text: str = "",
        stderr: IO[bytes] | int = subprocess.STDOUT,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this user, with `text` on its standard input, in a session of its own.

        The environment is bare: no `PG…` variable and no locale of the caller reaches the server.
        """
        return subprocess.run(
            [str(argument) for argument in arguments],
            input=text,
            text=True,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd="/",
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            user=self.uid if self.is_dropped_to else None,
            group=self.gid if self.is_dropped_to else None,
            extra_groups=[] if self.is_dropped_to else None,
            pass_fds=pass_fds,
            start_new_session=True,
            check=False,
        )

    def can_enter(self, folder: Path) -> bool:
        """True when this user may pass through every folder down to `folder`."""
        return self.run(["test", "-x", folder]).returncode == 0

    def give(self, folder: Path) -> None:
        """Make this user the owner of a folder that is ours."""
        if self.is_dropped_to:
            os.chown(folder, self.uid, self.gid)


def server_account(data: Path) -> Account:
    """The account for a server on `data`: ours, or as root the folder's owner, `postgres` or `nobody`."""
    if os.geteuid() != 0:
        return Account(uid=os.geteuid(), gid=os.getegid(), is_dropped_to=False)
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(uid=owner.st_uid, gid=owner.st_gid, is_dropped_to=True)
    for name in _UNPRIVILEGED_NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(uid=entry.pw_uid, gid=entry.pw_gid, is_dropped_to=True)
    raise DatabaseUnavailable(
        "PostgreSQL does not run as root, and the system has neither a user postgres nor nobody: "
        "run as another user, or set DATABASE_URL"
    )

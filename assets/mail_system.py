"""The way from Dagster to the library: a plain object that opens the installation when it is first needed.

A plain object and no `ConfigurableResource`, because whoever may open the launchpad could point that one
at another database or relay. What it opens is what the environment names: `MAIL_ORCHESTRATION_SETTINGS`
and `DATABASE_URL`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mail_orchestration.dispatch.presence import present
from mail_orchestration.installation import Installation, open_installation
from mail_orchestration.kernel.settings import settings_path


def presence_of(run_id: str) -> str:
    """The name by which a run's process is seen at work in the database."""
    return f"dagster run {run_id}"


@dataclass(frozen=True)
class _Kept:
    """An installation that stays open in this process, and the settings file as it was then."""

    installation: Installation
    stack: contextlib.ExitStack
    version: tuple[object, ...]


class MailSystem:
    """Opens the installation for runs (`opened`) and for the ticks of sensors (`shared`)."""

    def __init__(self, settings: Path | None = None) -> None:
        """`settings` is for tests; None takes what the environment names, at the time of use."""
        self._settings = settings
        self._lock = threading.Lock()
        self._kept: _Kept | None = None

    @contextlib.contextmanager
    def opened(self, purpose: str, run_id: str | None = None) -> Iterator[Installation]:
        """An installation of its own, closed at the end of the block: for the one op of a run.

        `purpose` is seen as the connections' application name. With `run_id` the clean-up can tell that the run's
        process is there, for as long as the block lasts. Raises BadSettings or DatabaseUnavailable.
        """
        with (
            open_installation(
                self._settings, application_name=f"dagster {purpose}", pool_size=2
            ) as installation,
            present(installation.database, presence_of(run_id)) if run_id else contextlib.nullcontext(),
        ):
            yield installation

    def shared(self) -> Installation:
        """This process's installation, kept open between ticks and opened anew when the settings file has
        changed.

        Sensors look every few seconds: connecting and checking the schema each time would cost more than
        looking. Raises BadSettings or DatabaseUnavailable.
        """
        with self._lock:
            version = self._version()
            if self._kept is not None and self._kept.version == version:
                return self._kept.installation
            previous, self._kept = self._kept, None
            opening = contextlib.ExitStack()
            try:
                installation = opening.enter_context(
                    open_installation(self._settings, application_name="dagster sensors", pool_size=2)
                )
                self._kept = _Kept(installation=installation, stack=opening, version=version)
            finally:
                # The old one goes last, so that the embedded server is never without a holder.
                if previous is None:
                    atexit.register(self.close)
                else:
                    previous.stack.close()
            return installation

    def close(self) -> None:
        """Let go of what `shared` keeps. It may be called again, and `shared` may follow."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            kept.stack.close()

    def _version(self) -> tuple[object, ...]:
        file = settings_path(self._settings)
        try:
            facts = file.stat()
        except OSError:
            return (os.getpid(), file)
        return (os.getpid(), file, facts.st_mtime_ns, facts.st_size)

"""The restore fence: a database that was restored or copied is recognised, and nothing is sent from it (spec 5.8).

A database restored from a backup has forgotten what was sent since, and would send it again. Two things tell it:

- The database keeps what it was when it was last known: the server's system identifier and timeline, the oids of
  database and tables, and the transaction that wrote this. A dump read back, a copy of the database, recovery to a
  point in time, a promoted standby and pg_upgrade differ in one of them at least. SQL compares (`database_differs`),
  in every claim's transaction.
- This host keeps, in `data_dir`, how far the database's log had been written when it was last seen. The log only
  grows; a data folder that was put back from a copy of its files is the same in all of the above, but its log is
  shorter. Compared when an installation is opened and closed, when a shift begins, and by the mailcasters' sensor.
"""

from __future__ import annotations

import contextlib
import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Row

from mail_orchestration.dispatch.holds import HoldCause, place_hold
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.statements import STATEMENTS

LATE_RESULTS = timedelta(days=1)
"""The newest result is looked for among those of a day before the last heartbeat: any later one is newer."""

_log = logging.getLogger(__name__)

_WHAT_DIFFERS = {
    "system": "it is on another server (another system identifier: a copy, or pg_upgrade)",
    "timeline": "its server is on another timeline (recovered to a point in time, or a promoted standby)",
    "database": "it is another database of the server (another oid: restored or copied into it)",
    "tables": "its tables were made anew (restored over the old ones)",
    "rows": "its rows were read in from a dump",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How this host last saw a database."""

    confirmed_at: str
    """Since when the database was known as what it was: every `resume --after-restore` makes it later."""
    log_position: int
    """Octets of its write-ahead log that were on disk and end with a record: no crash takes them away."""

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """What the file says; None when there is none that can be read."""
        try:
            said = json.loads(file.read_bytes())
            return cls(confirmed_at=str(said["confirmed_at"]), log_position=int(said["log_position"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, file: Path) -> None:
        """Keep it, whole or not at all. A host that cannot write remembers nothing."""
        fresh = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(
                json.dumps({"confirmed_at": self.confirmed_at, "log_position": self.log_position}),
                encoding="ascii",
            )
            fresh.replace(file)
        except OSError as error:
            _log.debug("%s: cannot be written: %s", file, error.strerror)
            with contextlib.suppress(OSError):
                fresh.unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """What would go on, or be sent again, from a restored database."""

    mail_jobs: int
    """Mail jobs that have not ended, of all installations; children apart."""
    newest_result_at: datetime | None
    """What was sent after this moment is not in the database."""
    newest_sign_at: datetime | None
    """The last thing that any mail job in it did."""


def recognise(
    connection: Connection, data_dir: Path, *, by: str, accept_promotion: bool = False
) -> str | None:
    """Look whether this is the database that was known; if it is not, hold all sending and return why.

    The first process to work with a database makes it known. With `accept_promotion` a new timeline alone is taken for
    a standby that was promoted and has lost nothing, and becomes known.
    """
    found = _look(connection)
    if _may_become_known(found, accept_promotion):
        found = _write_identity(connection, by, lambda now: _may_become_known(now, accept_promotion))
    seen = Seen.read(_file(data_dir, found))
    # Another process of this host may have seen it, further on, since we looked: look again, so that only a log that
    # is shorter than it was before the look counts.
    found = _look(connection)
    reason = _why_not_itself(found, seen)
    if reason is None:
        _remember(data_dir, found, seen)
    elif place_hold(connection, None, HoldCause.RESTORED, reason, by=by, now=database_now(connection)):
        _log.error("nothing is sent: %s", reason)
    return reason


def confirm(connection: Connection, data_dir: Path, *, by: str) -> None:
    """The operator says that this is the database to go on with: it is known as what it is now. Lifts no hold."""
    seen = Seen.read(_file(data_dir, _look(connection)))
    found = _write_identity(
        connection,
        by,
        lambda _: True,
        known_at=None if seen is None else datetime.fromisoformat(seen.confirmed_at),
    )
    _remember(data_dir, found, None)


def unfinished(connection: Connection) -> Unfinished:
    """What a restored database would send."""
    found = connection.execute(STATEMENTS["read_unfinished"]).one()
    newest = None
    if found.newest_sign_at is not None:
        newest = connection.scalar(
            STATEMENTS["newest_result"], {"since": found.newest_sign_at - LATE_RESULTS}
        )
    return Unfinished(
        mail_jobs=found.unfinished, newest_result_at=newest, newest_sign_at=found.newest_sign_at
    )


def _look(connection: Connection) -> Row[Any]:
    return connection.execute(STATEMENTS["look_at_database"]).one()


def _may_become_known(found: Row[Any], accept_promotion: bool) -> bool:
    return found.confirmed_at is None or (accept_promotion and found.differs == ["timeline"])


def _write_identity(
    connection: Connection, by: str, is_due: Callable[[Row[Any]], bool], known_at: datetime | None = None
) -> Row[Any]:
    """Write what the database is now, if that is still due once nobody else writes it. `known_at`: later than that."""
    connection.execute(STATEMENTS["lock_identity"])
    found = _look(connection)
    if not is_due(found):
        return found
    moments = [moment for moment in (known_at, found.confirmed_at) if moment is not None]
    connection.execute(STATEMENTS["forget_identity"])
    connection.execute(STATEMENTS["write_identity"], {"by": by, "known_at": max(moments, default=None)})
    return _look(connection)


def _why_not_itself(found: Row[Any], seen: Seen | None) -> str | None:
    if found.differs:
        why = "; ".join(_WHAT_DIFFERS[word] for word in dict.fromkeys(found.differs))
    elif seen is None or found.log_position is None:
        return None
    else:
        confirmed_at = datetime.fromisoformat(seen.confirmed_at)
        if found.confirmed_at < confirmed_at:
            why = f"it is of before {confirmed_at:%Y-%m-%d %H:%M:%S} UTC, when it was last confirmed"
        elif found.confirmed_at == confirmed_at and found.log_position < seen.log_position:
            why = "it went back in time (its log is shorter than this host has seen it: its files were put back)"
        else:
            return None
    return f"the database was restored or copied: {why}"


def _file(data_dir: Path, found: Row[Any]) -> Path:
    return data_dir / f"database-{found.system_identifier or 0:x}-{found.database_oid}.seen"


def _remember(data_dir: Path, found: Row[Any], seen: Seen | None) -> None:
    confirmed_at = found.confirmed_at.isoformat()
    position = found.kept_position
    if position is None:
        # Being written to in this very moment: what was seen before still holds.
        position = seen.log_position if seen is not None and seen.confirmed_at == confirmed_at else 0
    now = Seen(confirmed_at=confirmed_at, log_position=position)
    if now != seen:
        now.write(_file(data_dir, found))

"""Whether a process is still there that began something: told by a lock that ends with its session.

No clock and no host decides this. A process that is gone, with its machine or without, holds no lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sqlalchemy import Connection

from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.statements import STATEMENTS


@contextlib.contextmanager
def present(database: Database, name: str) -> Iterator[None]:
    """For the time of the block, on a connection of its own, this process is seen at work on `name`.

    Raises DatabaseUnavailable. A server that restarts meanwhile forgets it; the block goes on.
    """
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(database.dedicated())
        connection.execute(STATEMENTS["hold_presence"], {"name": name})
        yield
        # Of no importance once the block is over: the connection may have been lost within it.
        connection.invalidate()


def is_present(connection: Connection, name: str) -> bool:
    """Whether some process is at work on `name`. Needs a transaction."""
    return not connection.execute(STATEMENTS["try_presence"], {"name": name}).scalar_one()

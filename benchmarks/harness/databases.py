"""Folders and databases of a benchmark's own. What DATABASE_URL names is never touched: benchmarks empty tables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.migrations import migrate


@contextmanager
def own_folder() -> Iterator[Path]:
    """An empty folder with a short path, which PostgreSQL's sockets need, and without DATABASE_URL."""
    os.environ.pop("DATABASE_URL", None)
    with tempfile.TemporaryDirectory(prefix="mo-bench-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the server's account passes through when we are root
        yield folder


@contextmanager
def empty_database() -> Iterator[Database]:
    """An embedded server with the library's schema, gone afterwards."""
    with own_folder() as folder, Database.open(None, folder, application_name="benchmark") as database:
        database.ensure_schemas()
        migrate(database)
        yield database


def server_version() -> str:
    """Of the server that benchmarks run on."""
    with empty_database() as database, database.begin() as connection:
        return str(connection.exec_driver_sql("SHOW server_version").scalar_one())

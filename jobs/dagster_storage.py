"""Dagster's storage on PostgreSQL, over connections that are kept. deploy/dagster.yaml names it.

Dagster's own opens a connection for every statement, for each of which the server starts a process: an idle
daemon and its sensors 33 a second, which took a seventh of a core.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._config.config_schema import UserConfigSchema
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import create_pg_engine
from sqlalchemy.engine import Engine

KEPT = 3
"""Connections of one process that stay open. There may be twenty runs; what a process needs more of at a moment is
opened and closed, as Dagster does it."""

_with_tables: set[str] = set()
"""Addresses at which this process has made Dagster's tables, or seen them."""


class PooledStorage(DagsterPostgresStorage):
    """Runs, events and schedules of Dagster; all instances in a process share its connections.

    The webserver asks for connections of its own, with a time limit for statements, as it does of Dagster's storage.
    """

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        # Tables are looked for once, and not again for each sensor's tick, which makes an instance of its own.
        super().__init__(postgres_url, postgres_url not in _with_tables, inst_data)
        _with_tables.add(postgres_url)
        for part in (self._run_storage, self._event_log_storage, self._schedule_storage):
            part._engine = _engine(postgres_url)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """The address alone, which may hold the password: dagster.yaml takes it from the environment."""
        return {"postgres_url": dg.StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> PooledStorage:
        """As Dagster makes it from what dagster.yaml says."""
        return cls(config_value["postgres_url"], inst_data)


@functools.cache
def _engine(postgres_url: str) -> Engine:
    engine = create_pg_engine(
        postgres_url,
        isolation_level="AUTOCOMMIT",
        pool_size=KEPT,
        max_overflow=-1,
        # A server that was restarted has closed them.
        pool_pre_ping=True,
        # What is not needed stays unused, and does not keep others from being found dead.
        pool_use_lifo=True,
    )
    os.register_at_fork(after_in_child=functools.partial(engine.dispose, close=False))
    return engine

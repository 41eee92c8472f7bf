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

_engines: dict[str, Engine] = {}
"""Of this process, by address; Dagster's tables are there."""


class PooledStorage(DagsterPostgresStorage):
    """Runs, events and schedules of Dagster; all instances in a process share its connections.

    The webserver asks for connections of its own, with a time limit for statements, as it does of Dagster's storage.
    """

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        engine = _engines.get(postgres_url)
        # Tables are looked for once, and not again for each sensor's tick, which makes an instance of its own.
        super().__init__(postgres_url, engine is None, inst_data)
        if engine is None:
            # Of two threads at once both get the first one's.
            engine = _engines.setdefault(postgres_url, _new_engine(postgres_url))
        for part in (self._run_storage, self._event_log_storage, self._schedule_storage):
            part._engine = engine

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


def _new_engine(postgres_url: str) -> Engine:
    engine = create_pg_engine(
        postgres_url,
        isolation_level="AUTOCOMMIT",
        pool_size=KEPT,
        max_overflow=-1,
        # A server that was restarted has closed them.
        pool_pre_ping=True,
        # The same few again and again, and not all in turn.
        pool_use_lifo=True,
    )
    os.register_at_fork(after_in_child=functools.partial(engine.dispose, close=False))
    return engine

"""Alembic's environment: migrations run on the connection, in the transaction, of `migrate`."""

from __future__ import annotations

from alembic import context

from mail_orchestration.kernel.database import SCHEMA

context.configure(connection=context.config.attributes["connection"], version_table_schema=SCHEMA)
context.run_migrations()

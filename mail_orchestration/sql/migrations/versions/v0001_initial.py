"""The tables of the first release."""

from __future__ import annotations

from alembic import op

from mail_orchestration.kernel.migrations import run_sql_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql_file(op.get_bind(), "0001_initial.sql")

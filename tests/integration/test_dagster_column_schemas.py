"""The columns that an asset's page tells are those of its table."""

from __future__ import annotations

import dagster as dg
import pytest
from sqlalchemy import text

from assets import shown
from mail_orchestration.kernel.database import Database
from schedules.definitions import defs

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.mark.rule("11.1")
@pytest.mark.parametrize(
    ("asset", "table"),
    [
        ("audience_members", "audience_member"),
        ("recipients", "recipient"),
        ("assembled_messages", "assembled_message"),
        ("child_jobs", "mail_job"),
        ("delivery_results", "result"),
        ("frequency_counters", "frequency_counter"),
    ],
)
def test_columns_that_are_told_are_there(database: Database, asset: str, table: str) -> None:
    told = defs.resolve_asset_graph().get(dg.AssetKey(asset)).metadata[shown.COLUMN_SCHEMA]
    with database.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT a.attname, "
                "replace(format_type(a.atttypid, NULL), 'timestamp with time zone', 'timestamptz') AS kind "
                "FROM pg_attribute AS a WHERE a.attrelid = CAST(:t AS regclass) AND a.attnum > 0 AND NOT a.attisdropped"
            ),
            {"t": table},
        )
        columns = {row.attname: row.kind for row in rows}
    assert {each.name: each.type for each in told.columns}.items() <= columns.items()

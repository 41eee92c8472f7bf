"""Migrations bring any database to the schema that `sql/schema.sql` describes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import event, text

from mail_orchestration.kernel import migrations
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.migrations import (
    alembic_configuration,
    database_version,
    known_versions,
    migrate,
)

_ROOT = Path(__file__).parents[2]

_FACTS = {
    "relations": """
        SELECT c.relname, c.relkind, c.relpersistence, CAST(c.reloptions AS text), pg_get_partkeydef(c.oid),
               pg_get_expr(c.relpartbound, c.oid), obj_description(c.oid), CAST(c.relacl AS text)
        FROM pg_class AS c WHERE c.relnamespace = CAST('mail_orchestration' AS regnamespace)""",
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
               a.attgenerated, a.attstorage, a.attcompression, pg_get_expr(d.adbin, d.adrelid),
               row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum)
        FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = CAST('mail_orchestration' AS regnamespace)""",
    "constraints": """
        SELECT CAST(CAST(conrelid AS regclass) AS text), conname, contype, convalidated,
               pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = CAST('mail_orchestration' AS regnamespace)""",
    "indexes": """
        SELECT CAST(CAST(i.indrelid AS regclass) AS text), pg_get_indexdef(i.indexrelid), i.indisvalid
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE c.relnamespace = CAST('mail_orchestration' AS regnamespace)""",
    "enums": """
        SELECT t.typname, e.enumlabel, row_number() OVER (PARTITION BY t.oid ORDER BY e.enumsortorder)
        FROM pg_type AS t JOIN pg_enum AS e ON e.enumtypid = t.oid
        WHERE t.typnamespace = CAST('mail_orchestration' AS regnamespace)""",
    "functions": """
        SELECT proname, pg_get_functiondef(oid)
        FROM pg_proc WHERE pronamespace = CAST('mail_orchestration' AS regnamespace)""",
    "triggers": """
        SELECT CAST(CAST(tgrelid AS regclass) AS text), pg_get_triggerdef(t.oid)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE c.relnamespace = CAST('mail_orchestration' AS regnamespace) AND NOT tgisinternal""",
    "inheritance": """
        SELECT CAST(CAST(inhparent AS regclass) AS text), CAST(CAST(inhrelid AS regclass) AS text)
        FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid
        WHERE c.relnamespace = CAST('mail_orchestration' AS regnamespace)""",
}


@pytest.fixture
def empty(create_database: Callable[..., str], tmp_path: Path) -> Iterator[Database]:
    with Database.open(create_database(), tmp_path, application_name="tests") as database:
        yield database


def facts(database: Database) -> dict[str, set[tuple[object, ...]]]:
    with database.begin() as connection:
        found = {
            kind: {tuple(row) for row in connection.execute(text(query))} for kind, query in _FACTS.items()
        }
    return {kind: {row for row in rows if "alembic_version" not in str(row)} for kind, rows in found.items()}


def test_the_migrations_add_up_to_the_schema(database: Database, empty: Database) -> None:
    schema = (resources.files("mail_orchestration") / "sql" / "schema.sql").read_text(encoding="utf-8")
    empty.ensure_schemas()
    with empty.begin() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.execute(schema.encode())
    migrated, written = facts(database), facts(empty)
    assert written["columns"]
    for kind, rows in written.items():
        assert migrated[kind] == rows, kind


def test_the_comparison_sees_a_difference(database: Database) -> None:
    before = facts(database)
    with database.begin() as connection:
        connection.execute(text("CREATE TYPE flavour AS ENUM ('sweet')"))
        connection.execute(text("CREATE TABLE cake (n integer PRIMARY KEY DEFAULT 1, f flavour)"))
    after = facts(database)
    differing = {kind for kind, rows in after.items() if rows != before[kind]}
    assert differing >= {"relations", "columns", "constraints", "indexes", "enums"}


def test_many_processes_migrate_at_once(empty: Database) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from mail_orchestration.kernel.database import Database\n"
        "from mail_orchestration.kernel.migrations import migrate\n"
        "with Database.open(sys.argv[1], Path('unused'), application_name='tests') as database:\n"
        "    print(migrate(database))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, empty.url], stdout=subprocess.PIPE, text=True, cwd=_ROOT
        )
        for _ in range(4)
    ]
    said = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert said == [known_versions()[-1]] * 4
    with empty.begin() as connection:
        assert database_version(connection) == known_versions()[-1]
        assert connection.scalar(text("SELECT count(*) FROM alembic_version")) == 1


def test_nothing_to_do_is_one_query(database: Database) -> None:
    queries: list[str] = []
    with database.begin() as connection:
        pooled = connection.engine
    event.listen(pooled, "before_cursor_execute", lambda *arguments: queries.append(str(arguments[2])))
    assert migrate(database) == known_versions()[-1]
    assert len(queries) == 1


def test_a_database_of_a_newer_version_is_refused_and_left_alone(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BadSettings, match=r"version 9999 of the schema.*knows it up to"):
        migrate(database)
    with database.begin() as connection:
        assert database_version(connection) == "9999"


def test_a_migration_that_fails_leaves_nothing(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real = migrations.run_sql_file

    def fail_afterwards(connection: object, name: str) -> None:
        real(connection, name)  # type: ignore[arg-type]
        raise RuntimeError("the power went")

    monkeypatch.setattr(migrations, "run_sql_file", fail_afterwards)
    with pytest.raises(RuntimeError, match="the power went"):
        migrate(empty)
    assert not _has_schema(empty)
    monkeypatch.undo()
    assert migrate(empty) == known_versions()[-1]


def _has_schema(database: Database) -> bool:
    with database.begin() as connection:
        return bool(connection.scalar(text("SELECT to_regnamespace('mail_orchestration') IS NOT NULL")))


def test_the_files_and_alembic_agree_on_the_versions() -> None:
    scripts = ScriptDirectory.from_config(alembic_configuration())
    assert scripts.get_heads() == [known_versions()[-1]]
    assert sorted(script.revision for script in scripts.walk_revisions()) == known_versions()

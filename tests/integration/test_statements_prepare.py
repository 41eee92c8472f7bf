"""Every named statement is valid against the real schema, takes the binds written down, and is used once.

After a change of statements

    UPDATE_STATEMENT_BINDS=1 pytest tests/integration/test_statements_prepare.py

writes `statement_binds.json` anew; its diff shows what changed for the callers.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from mail_orchestration.kernel.bulk import copy_rows
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.statements import STATEMENTS

_ROOT = Path(__file__).parents[2]
_PINNED = Path(__file__).with_name("statement_binds.json")
_USE = re.compile(r"""STATEMENTS\[\s*["'](\w+)["']\s*\]""")
_PREPARABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "(")
_TYPES = text(
    "SELECT CAST(parameter_types AS text[]) FROM pg_prepared_statements WHERE name = CAST(:name AS text)"
)

_NUMBERED = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
"""Only for its `$1`: PREPARE knows no other binds."""


def test_every_statement_prepares_and_takes_the_binds_that_are_written_down(database: Database) -> None:
    binds: dict[str, dict[str, dict[str, str]]] = {}
    wrong: list[str] = []
    for name in sorted(STATEMENTS, key=_temporary_tables_first):
        statement = STATEMENTS.describe(name)
        try:
            types = _binds_of(database, name)
        except Exception as error:
            wrong.append(f"{statement.file}:{statement.line}: {name}: {getattr(error, 'orig', error)}")
        else:
            binds.setdefault(statement.file, {})[name] = types
    assert not wrong, "\n".join(wrong)
    if os.environ.get("UPDATE_STATEMENT_BINDS"):
        _PINNED.write_text(json.dumps(binds, indent=2, sort_keys=True) + "\n")
    assert json.loads(_PINNED.read_text()) == binds


def test_every_statement_is_used_once() -> None:
    uses = Counter(
        name
        for file in sorted((_ROOT / "mail_orchestration").rglob("*.py"))
        if file.name != "statements.py"
        for name in _USE.findall(file.read_text(encoding="utf-8"))
    )
    assert {name: uses[name] for name in STATEMENTS if uses[name] != 1} == {}
    assert set(uses) <= set(STATEMENTS)


def _temporary_tables_first(name: str) -> tuple[bool, str]:
    return not _makes_temporary_table(name), name


def _makes_temporary_table(name: str) -> bool:
    return re.match(r"CREATE\s+TEMP", STATEMENTS.describe(name).sql, re.IGNORECASE) is not None


def _binds_of(database: Database, name: str) -> dict[str, str]:
    """The binds' types as PostgreSQL sees them. What it cannot PREPARE has no binds, and is run as it is."""
    statement = STATEMENTS.describe(name)
    with database.begin() as connection:
        for other in STATEMENTS:
            if other != name and _makes_temporary_table(other):
                connection.execute(STATEMENTS[other])
        if statement.sql.upper().startswith(_PREPARABLE):
            compiled = STATEMENTS[name].compile(dialect=_NUMBERED)
            connection.exec_driver_sql(
                f"PREPARE {name} AS {str(compiled).replace('%%', '%')}".replace("%", "%%")
            )
            types = connection.scalars(_TYPES, {"name": name}).one()
            connection.exec_driver_sql(f"DEALLOCATE {name}")
            found = dict(zip(compiled.positiontup or (), types, strict=True))
        else:
            assert not statement.binds, (
                "PostgreSQL takes binds only in SELECT, INSERT, UPDATE, DELETE and MERGE"
            )
            if statement.sql.upper().startswith("COPY"):
                if "STDIN" in statement.sql.upper():
                    copy_rows(connection, STATEMENTS[name], [])
            else:
                connection.execute(STATEMENTS[name])
            found = {}
        connection.rollback()
    return found

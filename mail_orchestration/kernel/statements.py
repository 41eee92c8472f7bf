"""The named statements of `mail_orchestration/sql/*.sql`, read once: `STATEMENTS["claim_child"]`.

A file is a list of

    -- name: claim_child
    -- One sentence, or more lines of it, that says what the statement is for.
    SELECT … WHERE mail_job_id = :mail_job_id AND state = ANY(CAST(:states AS text[]))

Binds are `:name`. Casts of binds are `CAST(:name AS type)`: SQLAlchemy does not see a bind in `:name::type`,
so that is refused, with file and line, as are names that come twice and statements without a description.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from sqlalchemy import TextClause, text

_NAME = re.compile(r"--\s*name:\s*(\S*)\s*$")
_GOOD_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")
_TOKEN = re.compile(
    r"""(?P<literal> '(?:[^']|'')*' | "(?:[^"]|"")*" | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
      | (?P<comment> --[^\n]* | /\*.*?\*/ )
      | (?P<bad_cast> :[A-Za-z_]\w* \s* :: )
      | (?P<cast> :: )
      | (?<![\w:]) : (?P<bind> [A-Za-z_]\w* )""",
    re.VERBOSE | re.DOTALL,
)
_NOT_STATEMENTS = "schema.sql"


class StatementError(ValueError):
    """A file of statements is wrong; the message names file and line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One named statement and where it stands."""

    name: str
    file: str
    line: int
    description: str
    binds: tuple[str, ...]
    """The names of its parameters in the order in which they first come."""
    sql: str
    """Without comments; colons in literals are escaped as SQLAlchemy's `text` wants them."""


class Statements(Mapping[str, TextClause]):
    """All statements by name, ready to execute; `describe` gives what is known of one."""

    def __init__(self, statements: Iterator[Statement]) -> None:
        self._statements: dict[str, Statement] = {}
        for statement in statements:
            if first := self._statements.get(statement.name):
                here, there = f"{statement.file}:{statement.line}", f"{first.file}:{first.line}"
                raise StatementError(f"{here}: {statement.name} is already in {there}")
            self._statements[statement.name] = statement
        self._clauses = {name: text(statement.sql) for name, statement in self._statements.items()}

    def describe(self, name: str) -> Statement:
        """File, line, description, binds and SQL of a statement. Raises KeyError."""
        return self._statements[name]

    def __getitem__(self, name: str) -> TextClause:
        return self._clauses[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clauses)

    def __len__(self) -> int:
        return len(self._clauses)


def load_statements(folder: Traversable) -> Statements:
    """Read every `*.sql` of a folder but schema.sql. Raises StatementError."""
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql") and file.name != _NOT_STATEMENTS),
        key=lambda file: file.name,
    )
    return Statements(
        statement
        for file in files
        for statement in parse_statements(file.name, file.read_text(encoding="utf-8"))
    )


def parse_statements(file: str, content: str) -> Iterator[Statement]:
    """Read the statements of one file's content; `file` is its name for messages. Raises StatementError."""
    name, start = "", 0
    block: list[str] = []
    lines = content.splitlines()
    for number, line in enumerate([*lines, "-- name: end_of_file"], start=1):
        heading = _NAME.match(line)
        if heading is None:
            block.append(line)
            continue
        if start:
            yield _read_statement(file, start, name, block)
        elif any(before.strip() and not before.startswith("--") for before in block):
            raise StatementError(f"{file}:1: SQL before the first '-- name:'")
        name, start, block = heading.group(1), number, []


def _read_statement(file: str, line: int, name: str, block: list[str]) -> Statement:
    if not _GOOD_NAME.fullmatch(name):
        raise StatementError(f"{file}:{line}: {name!r} is no name of the form verb_noun")
    described = 0
    while described < len(block) and block[described].startswith("--"):
        described += 1
    description = " ".join(part.removeprefix("--").strip() for part in block[:described]).strip()
    if not description:
        raise StatementError(f"{file}:{line}: {name} has no description on the line after its name")
    raw = "\n".join(block[described:])
    binds: dict[str, None] = {}

    def read_token(token: re.Match[str]) -> str:
        if token["bad_cast"]:
            at = line + 1 + described + raw.count("\n", 0, token.start())
            cast = token["bad_cast"].rstrip(": \n")
            raise StatementError(f"{file}:{at}: {cast}::… is no bind: write CAST({cast} AS …)")
        if token["comment"]:
            return " "
        if token["literal"]:
            return token["literal"].replace(":", r"\:")
        if token["bind"]:
            binds[token["bind"]] = None
        return token[0]

    sql = _TOKEN.sub(read_token, raw)
    sql = "\n".join(part.rstrip() for part in sql.splitlines() if part.strip()).rstrip("; \n")
    if not sql:
        raise StatementError(f"{file}:{line}: {name} has no SQL")
    return Statement(name=name, file=file, line=line, description=description, binds=tuple(binds), sql=sql)


STATEMENTS = load_statements(resources.files("mail_orchestration") / "sql")

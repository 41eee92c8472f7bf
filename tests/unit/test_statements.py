"""How files of named statements are read, and what is refused in them."""

from __future__ import annotations

import pytest

from mail_orchestration.kernel.statements import (
    STATEMENTS,
    Statement,
    StatementError,
    Statements,
    parse_statements,
)


def read(content: str) -> list[Statement]:
    return list(parse_statements("dispatch.sql", content))


def test_a_file_is_names_descriptions_and_sql() -> None:
    first, second = read(
        "-- What dispatch asks.\n"
        "\n"
        "-- name: claim_child\n"
        "-- Take a range\n"
        "-- of messages.\n"
        "SELECT :b, CAST(:a AS bigint[]), :b  -- not :this\n"
        "FROM mail_job /* nor :that */ WHERE created_at > now();\n"
        "\n"
        "-- name: count_children\n"
        "-- Count them.\n"
        "SELECT 1\n"
    )
    assert first == Statement(
        name="claim_child",
        file="dispatch.sql",
        line=3,
        description="Take a range of messages.",
        binds=("b", "a"),
        sql="SELECT :b, CAST(:a AS bigint[]), :b\nFROM mail_job   WHERE created_at > now()",
    )
    assert (second.line, second.sql, second.binds) == (9, "SELECT 1", ())


def test_colons_in_literals_and_casts_are_no_binds() -> None:
    sql = """SELECT 'at :noon'::text, '{"a":true}', "odd:name", $$ :x $$, now()::date, a[1:2], ':it''s:'"""
    (statement,) = read(f"-- name: read_colons\n-- Colons.\n{sql} WHERE b = :b\n")
    assert statement.binds == ("b",)
    clause = Statements(iter([statement]))["read_colons"]
    assert set(clause.compile().params) == {"b"}
    assert str(clause) == f"{sql} WHERE b = :b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "-- name: a_b\n-- D.\nSELECT 1,\n  :id::bigint\n",
            r"dispatch\.sql:4: :id::… is no bind: write CAST\(:id AS",
        ),
        ("-- name: a_b\n-- D.\nSELECT :id ::bigint\n", r"dispatch\.sql:3: :id::"),
        ("-- name: a_b\nSELECT 1\n", r"dispatch\.sql:1: a_b has no description"),
        ("-- name: a_b\n--\nSELECT 1\n", r"dispatch\.sql:1: a_b has no description"),
        ("-- name: a_b\n-- D.\n", r"dispatch\.sql:1: a_b has no SQL"),
        ("\n-- name: Claim\n-- D.\nSELECT 1\n", r"dispatch\.sql:2: 'Claim' is no name"),
        ("-- name: claim\n-- D.\nSELECT 1\n", r"'claim' is no name of the form verb_noun"),
        ("-- name:\n-- D.\nSELECT 1\n", r"dispatch\.sql:1: '' is no name"),
        ("SELECT 1\n-- name: a_b\n-- D.\nSELECT 1\n", r"dispatch\.sql:1: SQL before the first"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(content: str, message: str) -> None:
    with pytest.raises(StatementError, match=message):
        read(content)


def test_a_name_stands_for_one_statement() -> None:
    twice = "-- name: a_b\n-- D.\nSELECT 1\n"
    with pytest.raises(StatementError, match=r"dispatch\.sql:4: a_b is already in dispatch\.sql:1"):
        Statements(iter(read(twice + twice)))


def test_the_library_knows_its_statements() -> None:
    for name in STATEMENTS:
        statement = STATEMENTS.describe(name)
        assert statement.name == name
        assert set(STATEMENTS[name].compile().params) == set(statement.binds)
        assert statement.description.endswith("."), (
            f"{statement.file}:{statement.line}: a sentence ends with a full stop"
        )
    with pytest.raises(KeyError):
        STATEMENTS["no_such_statement"]

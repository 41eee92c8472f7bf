"""Audiences that are the rows of a query."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from mail_orchestration.audience.sources import (
    SqlSource,
)
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import BadAudience
from tests.integration.audience_reading import read


@pytest.fixture
def shop(tmp_path: Path) -> str:
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE customer (mail TEXT, city TEXT, points INTEGER)")
        connection.executemany(
            "INSERT INTO customer VALUES (?, ?, ?)",
            [
                ("ann@example.com", "Bonn", 3),
                ("ben", "Rome", 4),
                (None, None, None),
                ("cid@example.com", "100%", 5),
            ],
        )
    connection.close()
    return f"sqlite:///{tmp_path / 'shop.db'}"


@pytest.mark.rule("1.2")
def test_sql_on_sqlite(shop: str) -> None:
    query = "SELECT mail AS email, city, points FROM customer WHERE city LIKE '%' OR city IS NULL -- all; of them\n;"
    found, rejects = read(SqlSource(url=shop, query=query))
    assert {key: cells[-1] for key, cells in found.items()} == {
        "ann@example.com": '{"city":"Bonn","points":3}',
        "cid@example.com": '{"city":"100%","points":5}',
    }
    assert rejects == [(2, "bad_address"), (3, "no_address")]


@pytest.mark.rule("1.2")
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT ';'; DELETE FROM customer", "one statement"),
        ("DELETE FROM customer", "query that reads"),
        (
            "WITH x AS (SELECT 1) DELETE FROM customer",
            "the query failed: attempt to write a readonly database",
        ),
        ("SELECT mail FROM customers", "the query failed: no such table"),
        ("SELECT mail FROM customer", "there is no column 'email'"),
        (
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) AS email FROM n",
            "the query failed: interrupted",
        ),
    ],
)
def test_sql_that_is_no_audience(shop: str, query: str, words: str) -> None:
    with pytest.raises(BadAudience, match=words):
        read(SqlSource(url=shop, query=query, timeout_seconds=0.2))


@pytest.mark.rule("1.2")
def test_sql_on_postgresql_is_read_only_timed_and_streamed(database: Database) -> None:
    url = database.url
    many = "SELECT 'r' || n || '@example.com' AS email, n FROM generate_series(1, 45000) AS n"
    sizes = [len(batch.rows) for batch in SqlSource(url=url, query=many).batches()]
    assert sizes == [20_000, 20_000, 5_000]
    found, _ = read(SqlSource(url=url, query="SELECT 'a@example.com' AS email, '50%' AS share, ':x' AS odd"))
    assert found["a@example.com"][-1] == '{"share":"50%","odd":":x"}'
    for query, words in [
        (
            "WITH x AS (INSERT INTO mail_orchestration.installation (name) VALUES ('x') RETURNING name) "
            "SELECT name AS email FROM x",
            "failed",
        ),
        ("SELECT nextval('mail_orchestration.contact_contact_id_seq') AS email", "read-only transaction"),
    ]:
        with pytest.raises(BadAudience, match=words):
            read(SqlSource(url=url, query=query))
    with pytest.raises(BadAudience, match="statement timeout"):
        read(SqlSource(url=url, query="SELECT pg_sleep(300) AS email", timeout_seconds=0.3))


@pytest.mark.rule("1.2")
def test_no_password_in_what_a_sql_source_says() -> None:
    url = "postgresql://joe:hidden@127.0.0.1:1/shop"
    source = SqlSource(url=url, query="SELECT 1 AS email")
    assert source.name == "SQL on postgresql 127.0.0.1/shop"
    with pytest.raises(BadAudience) as raised:
        read(source)
    for text in (repr(source), str(raised.value)):
        assert "hidden" not in text
    for url in ("hidden", "nosuchdb://joe:hidden@h/db"):
        with pytest.raises(BadAudience) as raised:
            read(SqlSource(url=url, query="SELECT 1 AS email"))
        assert "hidden" not in str(raised.value)

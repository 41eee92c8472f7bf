from __future__ import annotations

import csv
import sqlite3
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mail_orchestration.audience.rows import Source
from mail_orchestration.audience.sources import (
    CsvSource,
    DataFrameSource,
    DirectMailerSource,
    ParquetSource,
    SqlSource,
)
from mail_orchestration.audience.staging import stage
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import BadAudience


def _read(source: Source) -> tuple[dict[str, list[str]], list[tuple[int, str]]]:
    """Address key → the other cells, as COPY gets them; and the rejects' lines and codes."""
    staged = [stage(batch) for batch in source.batches()]
    cells = (
        line.rstrip("\n").split("\t")
        for each in staged
        for line in each.staging_lines().decode().split("\n")[:-1]
    )
    return (
        {key: rest for key, *rest in cells},
        [(reject.line, reject.code) for each in staged for reject in each.rejects],
    )


@pytest.mark.rule("1.2")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_csv_in_any_encoding_with_any_line_ends(tmp_path: Path, encoding: str, line_end: str) -> None:
    path = tmp_path / "list.csv"
    rows = ["email,name", "jo@example.com,Jörg", 'ann@example.com,"Ann, A"', ""]
    path.write_text(line_end.join(rows), encoding=encoding, newline="")
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    found, rejects = _read(CsvSource(path=path, encoding=declared))
    assert found["jo@example.com"][-1] == '{"name":"Jörg"}'
    assert found["ann@example.com"][-1] == '{"name":"Ann, A"}'
    assert rejects == []


@pytest.mark.rule("1.1")
def test_a_wrong_encoding_rejects_the_rows_that_it_spoils(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(
        "email,name,locale\njo@example.com,Jörg,\nann@example.com,Ann,\nb\xe9n@example.com,,\ncid@example.com,,\xe9\n".encode(
            "cp1252"
        )
    )
    found, rejects = _read(CsvSource(path=path))
    assert set(found) == {"ann@example.com"}
    assert rejects == [(2, "wrong_encoding"), (4, "wrong_encoding"), (5, "wrong_encoding")]


@pytest.mark.rule("1.1")
@pytest.mark.parametrize(
    "cell", ["x" * 10_000_000, '"' + "x\n" * 5_000_000 + '"'], ids=["one line", "many lines"]
)
def test_a_huge_cell_costs_its_own_row(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"email,name\nann@example.com,Ann\nbig@example.com,{cell}\nben@example.com,Ben\n")
    found, rejects = _read(CsvSource(path=path))
    assert {"ann@example.com", "ben@example.com"} == set(found)
    assert rejects == [(3, "too_long")]


@pytest.mark.rule("1.1")
def test_long_rows_below_the_limit_of_a_cell_are_rejected_too(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        "email,a,b\nann@example.com," + "x" * 100_000 + "," + "y" * 100_000 + "\nben@example.com,,\n"
    )
    found, rejects = _read(CsvSource(path=path))
    assert set(found) == {"ben@example.com"}
    assert rejects == [(2, "too_long")]


@pytest.mark.rule("1.1")
@pytest.mark.parametrize(
    "later", ["", 'z@example.com,"Z, Z"\n'], ids=["no other quote", "a quoted cell later"]
)
def test_a_stray_quote_before_many_lines_costs_its_own_line(tmp_path: Path, later: str) -> None:
    path = tmp_path / "list.csv"
    rows = "".join(f"r{n}@example.com,R\n" for n in range(10_000))
    path.write_text(f'email,name\nann@example.com,"Ann\n{rows}{later}')
    found, rejects = _read(CsvSource(path=path))
    assert len(found) == 10_000 + bool(later)
    assert rejects == [(2, "malformed")]


@pytest.mark.rule("1.1")
def test_a_stray_quote_costs_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        'email,name\n"a@example.com,A\nb@example.com,B\nc@example.com,"C" c\nd@example.com,"D\ne@example.com,E\n'
    )
    found, rejects = _read(CsvSource(path=path))
    assert set(found) == {"b@example.com", "e@example.com"}
    assert rejects == [(2, "malformed"), (4, "malformed"), (5, "malformed")]


@pytest.mark.rule("1.2")
@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"", {}, "list.csv:1: there is no header"),
        (b"\n\n", {}, "list.csv:1: there is no header"),
        (b"name,city\nAnn,Bonn\n", {}, r"list.csv:1: there is no column 'email' \(there are: name, city\)"),
        (b"ann@example.com,Bonn\n", {}, "its first line seems to be data"),
        (b"email,Name,name\n", {}, "columns 2 and 3 are both named 'name'"),
        (b"email,email\n", {}, "columns 1 and 2 are both named 'email'"),
        (b"email,locale,rcp_locale\n", {}, "columns 2 and 3 both give"),
        (b'email,"name\n', {}, "list.csv:1: the header cannot be read"),
        ("email,größe\n".encode("cp1252"), {}, "list.csv:1: the header is not in the encoding"),
        ("email,name\n".encode("utf-16"), {}, "list.csv:1: the header is not in the encoding"),
        (b"email,name\nx@example.com,X\n", {"encoding": "utf-16"}, "list.csv:1: this is not utf-16"),
        (b"email\n", {"encoding": "utf-99"}, "there is no encoding named 'utf-99'"),
        (b"email\n", {"encoding": "base64"}, "there is no encoding named 'base64'"),
        (b"email\n", {"delimiter": ";;"}, "list.csv: ';;' is no delimiter"),
        (b"email\n", {"delimiter": '"'}, "list.csv: '\"' is no delimiter"),
    ],
)
def test_a_csv_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, options: Any, words: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(BadAudience, match=words) as raised:
        _read(CsvSource(path=path, **options))
    assert str(path) in str(raised.value)
    assert "@" not in str(raised.value)


@pytest.mark.rule("1.2")
def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    sources: list[Source] = [
        CsvSource(path=tmp_path / "gone"),
        DirectMailerSource(path=tmp_path / "gone"),
        ParquetSource(path=tmp_path / "gone"),
        CsvSource(path=tmp_path),
    ]
    for source in sources:
        with pytest.raises(BadAudience, match=f"{source.name}: cannot be read"):
            _read(source)


@pytest.mark.rule("1.2")
@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("has_header", [True, False])
def test_direct_mailer_lists(tmp_path: Path, delimiter: str, has_header: bool) -> None:
    rows = [
        ["ann@example.com", "{0F8F-11}", "3", "1033", "https://shop.example/ann"],
        ["Ben Bo <BEN@example.com>", "", "", "", ""],
        ["cid@example.com", "", "TEXT", "", "https://shop.example/cid"],
        ["dan@example.com"],
        ["eve@example.com", "", "0", "", "", "too many"],
        ["", "guid", "", "", ""],
    ]
    header = [["rcp_email", "rcp_guid", "rcp_fmt", "rcp_locale", "rcp_url"]] if has_header else []
    path = tmp_path / "list.txt"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(header + rows)
    found, rejects = _read(DirectMailerSource(path=path))
    none = r"\N"
    assert found == {
        "ann@example.com": [
            "ann@example.com",
            "mhtml",
            "1033",
            "{0F8F-11}",
            "https://shop.example/ann",
            none,
        ],
        "ben@example.com": ["BEN@example.com", none, none, none, none, none],
        "cid@example.com": ["cid@example.com", "text", none, none, "https://shop.example/cid", none],
        "dan@example.com": ["dan@example.com", none, none, none, none, none],
    }
    first = 2 if has_header else 1
    assert rejects == [(first + 4, "wrong_cell_count"), (first + 5, "no_address")]


_TYPED = {
    "email": ["ann@example.com", None, "ben@example.com", "bad", "cid@example.com"],
    "points": [3, 4, None, 5, 7],
    "since": [date(2020, 1, 2), None, None, None, date(2021, 1, 2)],
    "price": [Decimal("1.50"), None, None, None, Decimal("2.00")],
    "tags": [["a", "b"], None, [], None, None],
    "note": ["x", "y", "z", "y", "NUL \0"],
}


@pytest.mark.rule("1.2")
@pytest.mark.parametrize("kind", ["parquet", "frame"])
def test_typed_sources_keep_types(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        pq.write_table(pa.table(_TYPED), tmp_path / "list.parquet", row_group_size=2)
        source: Source = ParquetSource(path=tmp_path / "list.parquet")
    else:
        source = DataFrameSource(frame=pd.DataFrame(_TYPED, index=[9, 9, 9, 1, 1]))
    found, rejects = _read(source)
    points = "3.0" if kind == "frame" else "3"
    assert found["ann@example.com"][-1] == (
        f'{{"points":{points},"since":"2020-01-02","price":"1.50","tags":["a","b"],"note":"x"}}'
    )
    assert found["ben@example.com"][-1] == '{"points":null,"since":null,"price":null,"tags":[],"note":"z"}'
    assert rejects == [(2, "no_address"), (4, "bad_address"), (5, "nul_character")]


@pytest.mark.rule("1.1")
def test_parquet_with_octets_that_are_no_text_and_values_that_are_no_attributes(tmp_path: Path) -> None:
    octets = pa.array([b"ann@example.com", b"b\xe9n@example.com", b"cid@example.com"])
    text = pa.StringArray.from_buffers(3, octets.buffers()[1], octets.buffers()[2])
    pq.write_table(
        pa.table({"email": text, "picture": pa.array([None, None, b"\x89PNG"])}), tmp_path / "l.parquet"
    )
    found, rejects = _read(ParquetSource(path=tmp_path / "l.parquet"))
    assert set(found) == {"ann@example.com"}
    assert rejects == [(2, "wrong_encoding"), (3, "unstorable")]


@pytest.mark.rule("1.1")
def test_parquet_with_values_that_python_cannot_hold(tmp_path: Path) -> None:
    days = pa.array([10_000_000, 1], pa.int32()).cast(pa.date32())
    table = pa.table({"email": ["ann@example.com", "ben@example.com"], "day": days})
    pq.write_table(table, tmp_path / "l.parquet")
    found, rejects = _read(ParquetSource(path=tmp_path / "l.parquet"))
    assert found["ben@example.com"][-1] == '{"day":"1970-01-02"}'
    assert rejects == [(1, "unstorable")]


@pytest.mark.rule("1.1")
def test_huge_cells_of_parquet_come_a_few_at_a_time(tmp_path: Path) -> None:
    cells = [f"{number}" * 10_000_000 for number in range(8)]
    table = pa.table({"email": [f"r{number}@example.com" for number in range(8)], "note": cells})
    pq.write_table(table, tmp_path / "l.parquet", compression="none", use_dictionary=False)
    source = ParquetSource(path=tmp_path / "l.parquet")
    assert max(len(batch.rows) for batch in source.batches()) <= 3
    assert _read(source) == ({}, [(number, "too_long") for number in range(1, 9)])


@pytest.mark.rule("1.1")
def test_a_cell_nested_too_deeply_costs_its_own_row() -> None:
    deep: dict[str, Any] = {}
    within = deep
    for _ in range(2_000):
        within["a"] = within = {}
    frame = pd.DataFrame({"email": ["ann@example.com", "ben@example.com"], "deep": [deep, {}]})
    found, rejects = _read(DataFrameSource(frame=frame))
    assert set(found) == {"ben@example.com"}
    assert rejects == [(1, "unstorable")]


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(b"PAR1 this is nothing PAR1")
    with pytest.raises(BadAudience, match=r"list\.parquet: this is no readable Parquet file"):
        _read(ParquetSource(path=path))


def test_a_frame_without_the_column_is_named() -> None:
    with pytest.raises(BadAudience, match="people: there is no column 'email'"):
        _read(DataFrameSource(frame=pd.DataFrame({"mail": []}), label="people"))


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
    found, rejects = _read(SqlSource(url=shop, query=query))
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
        _read(SqlSource(url=shop, query=query, timeout_seconds=0.2))


@pytest.mark.rule("1.2")
def test_sql_on_postgresql_is_read_only_timed_and_streamed(database: Database) -> None:
    url = database.url
    many = "SELECT 'r' || n || '@example.com' AS email, n FROM generate_series(1, 45000) AS n"
    sizes = [len(batch.rows) for batch in SqlSource(url=url, query=many).batches()]
    assert sizes == [20_000, 20_000, 5_000]
    found, _ = _read(SqlSource(url=url, query="SELECT 'a@example.com' AS email, '50%' AS share, ':x' AS odd"))
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
            _read(SqlSource(url=url, query=query))
    with pytest.raises(BadAudience, match="statement timeout"):
        _read(SqlSource(url=url, query="SELECT pg_sleep(300) AS email", timeout_seconds=0.3))


@pytest.mark.rule("1.2")
def test_no_password_in_what_a_sql_source_says() -> None:
    url = "postgresql://joe:hidden@127.0.0.1:1/shop"
    source = SqlSource(url=url, query="SELECT 1 AS email")
    assert source.name == "SQL on postgresql 127.0.0.1/shop"
    with pytest.raises(BadAudience) as raised:
        _read(source)
    for text in (repr(source), str(raised.value)):
        assert "hidden" not in text
    for url in ("hidden", "nosuchdb://joe:hidden@h/db"):
        with pytest.raises(BadAudience) as raised:
            _read(SqlSource(url=url, query="SELECT 1 AS email"))
        assert "hidden" not in str(raised.value)

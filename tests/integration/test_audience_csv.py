"""Audiences in files of lines: CSV in every form in which it comes, and lists of a direct mailer."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from mail_orchestration.audience.rows import Source
from mail_orchestration.audience.sources import (
    CsvSource,
    DirectMailerSource,
    ParquetSource,
)
from mail_orchestration.kernel.errors import BadAudience
from tests.integration.audience_reading import read


@pytest.mark.rule("1.2")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_csv_in_any_encoding_with_any_line_ends(tmp_path: Path, encoding: str, line_end: str) -> None:
    path = tmp_path / "list.csv"
    rows = ["email,name", "jo@example.com,Jörg", 'ann@example.com,"Ann, A"', ""]
    path.write_text(line_end.join(rows), encoding=encoding, newline="")
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    found, rejects = read(CsvSource(path=path, encoding=declared))
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
    found, rejects = read(CsvSource(path=path))
    assert set(found) == {"ann@example.com"}
    assert rejects == [(2, "wrong_encoding"), (4, "wrong_encoding"), (5, "wrong_encoding")]


@pytest.mark.rule("1.1")
@pytest.mark.parametrize(
    "cell", ["x" * 10_000_000, '"' + "x\n" * 5_000_000 + '"'], ids=["one line", "many lines"]
)
def test_a_huge_cell_costs_its_own_row(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"email,name\nann@example.com,Ann\nbig@example.com,{cell}\nben@example.com,Ben\n")
    found, rejects = read(CsvSource(path=path))
    assert {"ann@example.com", "ben@example.com"} == set(found)
    assert rejects == [(3, "too_long")]


@pytest.mark.rule("1.1")
def test_long_rows_below_the_limit_of_a_cell_are_rejected_too(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        "email,a,b\nann@example.com," + "x" * 100_000 + "," + "y" * 100_000 + "\nben@example.com,,\n"
    )
    found, rejects = read(CsvSource(path=path))
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
    found, rejects = read(CsvSource(path=path))
    assert len(found) == 10_000 + bool(later)
    assert rejects == [(2, "malformed")]


@pytest.mark.rule("1.1")
def test_a_stray_quote_costs_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        'email,name\n"a@example.com,A\nb@example.com,B\nc@example.com,"C" c\nd@example.com,"D\ne@example.com,E\n'
    )
    found, rejects = read(CsvSource(path=path))
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
        read(CsvSource(path=path, **options))
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
            read(source)


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
    found, rejects = read(DirectMailerSource(path=path))
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

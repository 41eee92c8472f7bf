"""Audiences whose cells have types: Parquet and data frames."""

from __future__ import annotations

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
    DataFrameSource,
    ParquetSource,
)
from mail_orchestration.kernel.errors import BadAudience
from tests.integration.audience_reading import read

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
    found, rejects = read(source)
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
    found, rejects = read(ParquetSource(path=tmp_path / "l.parquet"))
    assert set(found) == {"ann@example.com"}
    assert rejects == [(2, "wrong_encoding"), (3, "unstorable")]


@pytest.mark.rule("1.1")
def test_parquet_with_values_that_python_cannot_hold(tmp_path: Path) -> None:
    days = pa.array([10_000_000, 1], pa.int32()).cast(pa.date32())
    table = pa.table({"email": ["ann@example.com", "ben@example.com"], "day": days})
    pq.write_table(table, tmp_path / "l.parquet")
    found, rejects = read(ParquetSource(path=tmp_path / "l.parquet"))
    assert found["ben@example.com"][-1] == '{"day":"1970-01-02"}'
    assert rejects == [(1, "unstorable")]


@pytest.mark.rule("1.1")
def test_huge_cells_of_parquet_come_a_few_at_a_time(tmp_path: Path) -> None:
    cells = [f"{number}" * 10_000_000 for number in range(8)]
    table = pa.table({"email": [f"r{number}@example.com" for number in range(8)], "note": cells})
    pq.write_table(table, tmp_path / "l.parquet", compression="none", use_dictionary=False)
    source = ParquetSource(path=tmp_path / "l.parquet")
    assert max(len(batch.rows) for batch in source.batches()) <= 3
    assert read(source) == ({}, [(number, "too_long") for number in range(1, 9)])


@pytest.mark.rule("1.1")
def test_a_cell_nested_too_deeply_costs_its_own_row() -> None:
    deep: dict[str, Any] = {}
    within = deep
    for _ in range(2_000):
        within["a"] = within = {}
    frame = pd.DataFrame({"email": ["ann@example.com", "ben@example.com"], "deep": [deep, {}]})
    found, rejects = read(DataFrameSource(frame=frame))
    assert set(found) == {"ben@example.com"}
    assert rejects == [(1, "unstorable")]


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(b"PAR1 this is nothing PAR1")
    with pytest.raises(BadAudience, match=r"list\.parquet: this is no readable Parquet file"):
        read(ParquetSource(path=path))


def test_a_frame_without_the_column_is_named() -> None:
    with pytest.raises(BadAudience, match="people: there is no column 'email'"):
        read(DataFrameSource(frame=pd.DataFrame({"mail": []}), label="people"))

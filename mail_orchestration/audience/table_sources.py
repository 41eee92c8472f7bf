"""Parquet files and pandas DataFrames (spec 1.2). Numbers, dates and lists keep their type as attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mail_orchestration.audience.rows import ROWS_PER_BATCH, Batch, Layout
from mail_orchestration.kernel.errors import BadAudience

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetSource:
    """A Parquet file."""

    path: Path
    address_column: str = "email"

    @property
    def name(self) -> str:
        return str(self.path)

    def batches(self) -> Iterator[Batch]:
        """Raises BadAudience naming the file."""
        # pyarrow costs 50 MB: only who reads Parquet pays.
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                layout = Layout.of(file.schema_arrow.names, self.address_column, self.name)
                first = 1
                for record_batch in file.iter_batches(batch_size=ROWS_PER_BATCH, use_threads=False):
                    columns = [_values(column) for column in record_batch.columns]
                    yield _batch(layout, first, list(zip(*columns, strict=True)))
                    first += record_batch.num_rows
        except OSError as error:
            reason = error.strerror or "it is damaged"
            raise BadAudience(f"{self.path}: cannot be read: {reason}") from None
        except pa.ArrowException as error:
            reason = str(error).partition("\n")[0][:200]
            raise BadAudience(f"{self.path}: this is no readable Parquet file: {reason}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFrameSource:
    """A pandas DataFrame, such as an upstream asset hands over. Its index is not read."""

    frame: pandas.DataFrame = field(repr=False)
    address_column: str = "email"
    label: str = "DataFrame"

    @property
    def name(self) -> str:
        return self.label

    def batches(self) -> Iterator[Batch]:
        """Raises BadAudience naming the missing or repeated column."""
        layout = Layout.of([str(name) for name in self.frame.columns], self.address_column, self.name)
        for start in range(0, len(self.frame), ROWS_PER_BATCH):
            part = self.frame.iloc[start : start + ROWS_PER_BATCH].astype(object)
            rows = list(part.where(part.notna(), None).itertuples(index=False, name=None))
            yield _batch(layout, start + 1, rows)


def _batch(layout: Layout, first: int, rows: Sequence[Sequence[Any]]) -> Batch:
    return Batch(layout=layout, lines=range(first, first + len(rows)), rows=rows)


def _values(column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        # A column of text with octets that are no UTF-8: as surrogates, for the row to be rejected alone.
        octets = column.cast("binary").to_pylist()
        values = [None if each is None else each.decode("utf-8", "surrogateescape") for each in octets]
    return values

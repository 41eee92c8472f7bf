"""Parquet files and pandas DataFrames (spec 1.2). Numbers, dates and lists keep their type as attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mail_orchestration.audience.rows import ROWS_PER_BATCH, Batch, Layout
from mail_orchestration.kernel.errors import BadAudience

_MAXIMUM_BATCH_OCTETS = 32_000_000

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
                for record_batch in file.iter_batches(batch_size=_rows_at_once(file), use_threads=False):
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


def _rows_at_once(file: Any) -> int:
    """As many rows as a batch has, or fewer where they are so wide that a batch would not fit into memory."""
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    widest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(ROWS_PER_BATCH, _MAXIMUM_BATCH_OCTETS // max(widest, 1)))


class ValueOutOfRange:
    """Stands for a value that Python cannot hold, such as a date in the year 20000; its row is rejected alone."""


def _values(column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        # A column of text with octets that are no UTF-8: as surrogates, for the row to be rejected alone.
        octets = column.cast("binary").to_pylist()
        values = [None if each is None else each.decode("utf-8", "surrogateescape") for each in octets]
    except (ArithmeticError, LookupError, ValueError):  # an unknown time zone is a LookupError
        values = [_value(each) for each in column]
    return values


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ArithmeticError, LookupError, ValueError):
        return ValueOutOfRange()

"""Where audiences come from (spec 1.2): CSV, Direct Mailer lists, Parquet, SQL, DataFrames.

Each source reads in batches, in bounded memory, and knows the line of each row.
"""

from __future__ import annotations

from mail_orchestration.audience.csv_source import CsvSource, DirectMailerSource
from mail_orchestration.audience.rows import Batch, Layout, Reject, Source
from mail_orchestration.audience.sql_source import SqlSource
from mail_orchestration.audience.table_sources import DataFrameSource, ParquetSource

__all__ = [
    "Batch",
    "CsvSource",
    "DataFrameSource",
    "DirectMailerSource",
    "Layout",
    "ParquetSource",
    "Reject",
    "Source",
    "SqlSource",
]

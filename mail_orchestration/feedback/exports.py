"""A report as files: one CSV and one Parquet for each table (spec 10.4).

Cells of text that a spreadsheet would take for a formula are prefixed in CSV: relays write their replies, and
strangers choose their domains. Parquet keeps values as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mail_orchestration.feedback.reports import MailJobReport

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """A text that begins like a formula with an apostrophe before it; everything else as it is."""
    return "'" + value if isinstance(value, str) and value.startswith(_FORMULA) else value


def to_csv(frame: pd.DataFrame) -> str:
    """RFC 4180 with a header, safe to open in a spreadsheet."""
    safe = frame.apply(lambda column: column.map(safe_cell) if column.dtype.kind == "O" else column)
    return str(safe.to_csv(index=False, lineterminator="\r\n"))


def export_report(report: MailJobReport, folder: Path) -> list[Path]:
    """Write every table as `mail_job_<id>_<table>.csv` and `.parquet` into `folder`; returns the paths.

    The folder is made if it is missing. Raises OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, frame in report.frames().items():
        stem = folder / f"mail_job_{report.release_id}_{name}"
        csv, parquet = stem.with_suffix(".csv"), stem.with_suffix(".parquet")
        csv.write_text(to_csv(frame), encoding="utf-8", newline="")
        frame.to_parquet(parquet, index=False)
        written += [csv, parquet]
    return written

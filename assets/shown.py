"""Metadata for Dagster's UI: tables in markdown, column schemas, plots. No address of a person gets in
here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import dagster as dg

from mail_orchestration.feedback.books import Books
from mail_orchestration.feedback.tables import markdown_table

if TYPE_CHECKING:
    Materialized: TypeAlias = dg.MaterializeResult[None]
    """What an asset returns: metadata and checks, no value. Nothing travels through an IO manager."""
else:
    # Dagster looks for the class itself among the annotations.
    Materialized = dg.MaterializeResult

Metadata: TypeAlias = "dict[str, dg.MetadataValue | str | int | float]"

OWNERS = ["team:mail-operations"]

ROW_COUNT = "dagster/row_count"
COLUMN_SCHEMA = "dagster/column_schema"

TABLE_ROWS_AT_MOST = 50
"""A table in metadata is read by people, and is copied into every event: the rest is counted, not shown."""


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, nothing: str = "None."
) -> dg.MarkdownMetadataValue:
    """A markdown table of at most TABLE_ROWS_AT_MOST rows, or the sentence `nothing` when there is no row."""
    shown = [list(row) for row in rows]
    if not shown:
        return dg.MetadataValue.md(nothing)
    left_out = len(shown) - TABLE_ROWS_AT_MOST
    shown = shown[:TABLE_ROWS_AT_MOST]
    lines = [markdown_table(head, shown)]
    if left_out > 0:
        lines.append(f"\n… and {left_out:,} more.")
    return dg.MetadataValue.md("\n".join(lines))


def counts(by_reason: Mapping[str, int], *, of: int, word: str, nothing: str) -> dg.MarkdownMetadataValue:
    """A table of reasons, the most frequent first, each with its share of `of`."""
    return table(
        (word, "count", "share"),
        (
            (reason, count, percentage(count, of))
            for reason, count in sorted(by_reason.items(), key=lambda item: (-item[1], item[0]))
        ),
        nothing=nothing,
    )


def kept_by_the_policy(account: Books) -> dg.MarkdownMetadataValue:
    """Whom the frequency policy kept from getting it at once, by rule."""
    return counts(
        account.forbidden,
        of=account.recipients,
        word="rule",
        nothing="The frequency policy kept nobody from getting it.",
    )


def percentage(part: int, whole: int) -> str:
    """`part` of `whole` for people, such as `2.5 %`; a dash where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def rate(messages: int, seconds: float) -> float:
    """Messages per second, 0 where no time passed."""
    return round(messages / seconds, 1) if seconds > 0 else 0.0


def plot(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    """A picture inside the event itself: a viewer needs no file and no other server."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})")


def partition_link(asset: str, partition_key: str) -> dg.MarkdownMetadataValue:
    """A partition of another asset, as a link to its page."""
    return dg.MetadataValue.md(
        f"[{partition_key}](/assets/{asset}?view=partitions&partition={partition_key})"
    )


def columns(**described: tuple[str, str]) -> dg.TableSchema:
    """A column schema from `name=(type, description)`."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name, column_type, description=description)
            for name, (column_type, description) in described.items()
        ]
    )

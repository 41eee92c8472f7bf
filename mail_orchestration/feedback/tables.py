"""Tables in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any


def markdown_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with a header; numbers stand on the right, and nothing in a cell can end it."""
    is_number = [
        any(_is_number(row[column]) for row in rows)
        and all(_is_number(row[column], none=True) for row in rows)
        for column in range(len(names))
    ]
    lines = [
        _line(name.replace("_", " ") for name in names),
        _line("---:" if right else "---" for right in is_number),
        *(
            # The number of a mail job is a name: no thousands separator.
            _line(_cell(value, is_name=name.endswith("_id")) for name, value in zip(names, row, strict=True))
            for row in rows
        ),
    ]
    return "\n".join(lines)


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _is_number(value: Any, *, none: bool = False) -> bool:
    return isinstance(value, int | float) or (none and value is None)


def _cell(value: Any, *, is_name: bool) -> str:
    match value:
        case None:
            return ""
        case int() if is_name:
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.1f}"
        case datetime():
            return value.isoformat(sep=" ", timespec="seconds")
        case _:
            text = " ".join(str(value).split())
            for character in "\\|`*_<>[]":
                text = text.replace(character, "\\" + character)
            return text

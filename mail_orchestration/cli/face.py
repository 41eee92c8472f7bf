"""What a command says: one JSON document, or tables and sentences for people; progress apart on stderr.

Rich is imported when something is to be shown, so that `--help` and `--json` stay quick.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mail_orchestration.kernel.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from mail_orchestration.installation import Installation

WIDTH_WITHOUT_TERMINAL = 140


@dataclasses.dataclass(frozen=True, kw_only=True)
class Face:
    """How one command speaks, and which settings it works with."""

    as_json: bool = False
    settings_path: Path | None = None

    @cached_property
    def console(self) -> Console:
        """Where the answer goes: stdout, or with `--json` nowhere, since stdout is then one document."""
        return _console(quiet=self.as_json)

    @cached_property
    def aside(self) -> Console:
        """Where progress and warnings go: stderr."""
        return _console(stderr=True)

    def answer(self, document: Any, show: Callable[[Console], None]) -> None:
        """The command's result: `document` as JSON, or what `show` prints."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, default=plain, ensure_ascii=False, indent=2) + "\n")
            sys.stdout.flush()
        else:
            show(self.console)

    def warn(self, sentence: str) -> None:
        """Something that is well but wants attention; on stderr, so that it never mixes with the answer."""
        if not self.as_json:
            self.aside.print(f"[yellow]warning[/] {escaped(sentence)}", highlight=False)

    def confirms(self, question: str) -> bool:
        """Ask the operator on the terminal. Raises BadInput where nobody can answer, as in a script: see `--yes`."""
        if self.as_json or not sys.stdin.isatty():
            raise BadInput(f"{question} Say --yes to do it without being asked.")
        import typer

        return typer.confirm(question, err=True)

    def open(self) -> AbstractContextManager[Installation]:
        """The installation of the settings, for a block."""
        from mail_orchestration.installation import open_installation

        return open_installation(self.settings_path, application_name="mail-orchestration cli")

    @contextlib.contextmanager
    def progress(self, what: str, *, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
        """A bar on stderr while the block runs: call what is yielded with (done, total). None without a terminal."""
        if self.as_json or not sys.stderr.isatty():
            yield _no_progress
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.aside, transient=True) as bars:
            task = bars.add_task(what, total=total)

            def show(done: int, total: int | None = total) -> None:
                bars.update(task, completed=done, total=total)

            yield show


def _no_progress(done: int, total: int | None = None) -> None:
    pass


def plain(value: Any) -> Any:
    """`value` in JSON's terms, for `json.dumps(default=…)`: records as objects, moments in ISO 8601."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    match value:
        case datetime() | date():
            return value.isoformat()
        case Enum():
            return value.value
        case Path():
            return str(value)
        case Mapping():
            return dict(value)
        case set() | frozenset() | tuple():
            return list(value)
        case _:
            return str(value)


def table(*columns: str, rows: Sequence[Sequence[object]], title: str | None = None) -> RenderableType:
    """A table; columns whose cells are all numbers (or empty) are set to the right. Without names it has no head."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_header=any(columns),
    )
    for position, column in enumerate(columns):
        cells = [row[position] for row in rows]
        is_number = all(isinstance(cell, int | float) or cell in (None, "") for cell in cells) and bool(cells)
        is_short = is_number or any(isinstance(cell, datetime) for cell in cells)
        made.add_column(
            column,
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_short and len(column) < 12,
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(shown(cell)) for cell in row))
    return made


def shown(value: object) -> str:
    """One value for people: thousands apart, moments to the second, nothing for None."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.1f}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case _:
            return str(value)


def duration(seconds: float) -> str:
    """A length of time for people: to the second, from an hour on to the minute."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    )


def database_name(inst: Installation) -> str:
    """Where the installation's database is, without anything secret."""
    name = str(inst.database).removeprefix("Database(").removesuffix(")")
    return f"{name} (embedded)" if inst.database.is_embedded else name


def escaped(value: object) -> str:
    """`value` as text that rich prints as it is, whatever brackets are in it."""
    from rich.markup import escape

    return escape(str(value))


def _console(*, stderr: bool = False, quiet: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # Without a terminal rich takes 80 columns, which folds tables in logs and pipes.
    width = None if stream.isatty() else WIDTH_WITHOUT_TERMINAL
    return Console(stderr=stderr, quiet=quiet, width=width, highlight=False)

"""What is asked all day long, with 50 million results in the database: each within 100 ms.

    python -m benchmarks.fifty_million --rows 50000000 --days 30

Fills an embedded PostgreSQL with mail jobs of many days (about 13 GB for 50 million rows, half an hour on two cores),
starts it anew with nothing of it in memory, and asks each question of `everyday_questions`: once cold, then five times.
The reference is `SELECT 1` in a transaction of its own. The plan of each statement is looked at: how many rows
it read without an index, and into how many partitions of a table it looked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from sqlalchemy import text

from benchmarks.everyday_questions import asked, look_at_plan, questions, report_on_the_ended
from benchmarks.harness import command_line
from benchmarks.harness.databases import own_folder
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.long_history import History, write_history
from mail_orchestration.installation import Installation, open_installation

LIMIT_MS = 100
TIMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    rows: int = 50_000_000
    days: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What one question took."""

    question: str
    cold_ms: float
    ms: tuple[float, ...]
    select_1_ms: tuple[float, ...]
    scanned: str
    """The most rows that a statement of it read without an index."""
    partitions: int
    """The most of one table that a statement of it looked into."""


def measure(sizes: Sizes) -> list[Measurement]:
    """Fill, start anew, ask."""
    with own_folder() as folder:
        settings = folder / "mail_orchestration.yaml"
        settings.write_text(yaml.safe_dump({"installation": "main"}), encoding="utf-8")
        with open_installation(settings, application_name="benchmark") as inst:
            history = write_history(inst.database, inst.installation_id, rows=sizes.rows, days=sizes.days)
            report_on_the_ended(inst, history)
        forget_pages(folder)
        with open_installation(settings, application_name="benchmark") as inst:
            answered = ask_all(inst, history)
    tell(history, answered)
    return [
        Measurement(
            name=f"{each.question}, {history.results:,} results",
            unit="ms",
            runs=each.ms,
            reference="`SELECT 1`",
            reference_runs=each.select_1_ms,
            target=None if "--recount" in each.question else Target(at_most=LIMIT_MS, of="value"),
            goal=7,
        )
        for each in answered
    ]


def forget_pages(folder: Path) -> None:
    """Have the kernel forget what it has of the database's files."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def ask_all(inst: Installation, history: History) -> list[Answered]:
    """Each question cold, then warm beside its reference; and its plans."""
    answered = []
    for name, ask in questions(inst, history).items():
        cold = milliseconds(ask)
        plans = [look_at_plan(inst, *each) for each in asked(ask)]
        rows, table = max(
            ((rows, table) for plan in plans for table, rows in plan.scanned.items()), default=(0, "")
        )
        answered.append(
            Answered(
                question=name,
                cold_ms=cold,
                ms=tuple(milliseconds(ask) for _ in range(TIMES)),
                select_1_ms=tuple(milliseconds(lambda: select_1(inst)) for _ in range(TIMES)),
                scanned=f"{rows:,} of {table}" if rows else "",
                partitions=max((number for plan in plans for number in plan.partitions.values()), default=0),
            )
        )
    return answered


def select_1(inst: Installation) -> None:
    with inst.database.begin() as connection:
        connection.execute(text("SELECT 1")).one()


def milliseconds(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return 1000 * (time.perf_counter() - began)


def tell(history: History, answered: list[Answered]) -> None:
    """What the measurements do not say: the first time, and the plans."""
    print(
        f"{history.results:,} results\n\n| question | cold | without an index | partitions |\n|---|---:|---|---:|"
    )
    for each in answered:
        print(f"| {each.question} | {each.cold_ms:,.0f} ms | {each.scanned} | {each.partitions} |")
    print()


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(rows=60_000, days=6))

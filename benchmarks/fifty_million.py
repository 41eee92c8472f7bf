"""What is asked all day long, with 50 million results in the database: each within 100 ms.

    python -m benchmarks.fifty_million --rows 50000000 --days 30

Fills an embedded PostgreSQL under --folder with mail jobs of many days (about 13 GB for 50 million rows, removed at
the end; half an hour on two cores), starts it anew with nothing of it in memory, and asks each question of
`everyday_questions`: once cold, then five times for the median. The references are `SELECT 1` in a transaction of its
own, and count(*) of the largest mail job's results by their index, just before each other. Each statement's plan is
looked at: rows that it read by a sequential scan, partitions that it looked into. Exit code 1 when a question that does
not count a mail job under way takes longer than the limit, or reads more than `MOST_SCANNED` rows of a table without
an index.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import text

from benchmarks.everyday_questions import asked, look_at_plan, questions
from benchmarks.long_history import History, write_history
from mail_orchestration.installation import Installation, open_installation

LIMIT_MS = 100
MOST_SCANNED = 10_000
TIMES = 5
COUNTED_ANEW = {"report: the largest, under way"}
"""Questions that read every row of a mail job, and say so."""


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rows", type=int, default=50_000_000)
    options.add_argument("--days", type=int, default=30)
    options.add_argument("--folder", type=Path, default=Path("/tmp"))
    options.add_argument("--keep", type=Path, help="fill and use this folder, and leave it there")
    options.add_argument("--only", default="", help="questions whose name begins so")
    chosen = options.parse_args()
    os.environ.pop("DATABASE_URL", None)
    if chosen.keep:
        chosen.keep.mkdir(mode=0o711, exist_ok=True)
        return measure(chosen, chosen.keep)
    with tempfile.TemporaryDirectory(prefix="mo-bench-", dir=chosen.folder) as name:
        Path(name).chmod(0o711)
        return measure(chosen, Path(name))


def measure(chosen: argparse.Namespace, folder: Path) -> int:
    """Fill, start anew, ask."""
    settings = folder / "mail_orchestration.yaml"
    settings.write_text(yaml.safe_dump({"installation": "main"}), encoding="utf-8")
    filled = folder / "history.pickle"
    if not filled.exists():
        begun = time.perf_counter()
        with open_installation(settings, application_name="benchmark") as inst:
            history = write_history(inst.database, inst.installation_id, rows=chosen.rows, days=chosen.days)
        filled.write_bytes(pickle.dumps(history))
        print(f"{history.results:,} results were written in {time.perf_counter() - begun:.0f} s", flush=True)
    history = pickle.loads(filled.read_bytes())
    forget_pages(folder)
    with open_installation(settings, application_name="benchmark") as inst:
        figures = ask_all(inst, history, chosen.only)
    tell(history, figures)
    return int(any(is_too_much(name, each) for name, each in figures.items()))


def forget_pages(folder: Path) -> None:
    """Have the kernel forget what it has of the database's files."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def ask_all(inst: Installation, history: History, only: str) -> dict[str, dict[str, Any]]:
    """Each question cold, warm, beside its references, and its plans."""
    figures = {}
    for name, ask in questions(inst, history).items():
        if not name.startswith(only):
            continue
        figures[name] = {
            "select_1_ms": warm_ms(lambda: one(inst, "SELECT 1")),
            "cold_ms": milliseconds(ask),
            "ms": warm_ms(ask),
        }
        plans = [look_at_plan(inst, *each) for each in asked(ask)]
        scanned = [table for plan in plans for table in plan.rows_by_sequential_scan.items()]
        figures[name]["most_scanned"] = max(scanned, key=lambda each: each[1], default=None)
        figures[name]["partitions"] = max((n for plan in plans for n in plan.partitions.values()), default=0)
        print(json.dumps({name: figures[name]}), flush=True)
    return figures


def one(inst: Installation, statement: str) -> None:
    with inst.database.begin() as connection:
        connection.execute(text(statement)).one()


def milliseconds(ask: Callable[[], object]) -> float:
    begun = time.perf_counter()
    ask()
    return round(1000 * (time.perf_counter() - begun), 2)


def warm_ms(ask: Callable[[], object]) -> float:
    return statistics.median(milliseconds(ask) for _ in range(TIMES))


def is_too_much(name: str, figures: dict[str, Any]) -> bool:
    """Whether a question takes too long, or reads too much without an index."""
    scanned = figures["most_scanned"]
    return name not in COUNTED_ANEW and (
        figures["ms"] > LIMIT_MS or (scanned is not None and scanned[1] > MOST_SCANNED)
    )


def tell(history: History, figures: dict[str, dict[str, Any]]) -> None:
    """A table, then JSON."""
    print("| question | ms | of SELECT 1 | cold ms | partitions |\n|---|---:|---:|---:|---:|")
    for name, each in figures.items():
        mark = " (!)" if is_too_much(name, each) else ""
        print(
            f"| {name}{mark} | {each['ms']:.1f} | {each['ms'] / each['select_1_ms']:.0f} | {each['cold_ms']:.0f} "
            f"| {each['partitions']} |"
        )
    print(json.dumps({"results": history.results, "limit_ms": LIMIT_MS, "questions": figures}))


if __name__ == "__main__":
    sys.exit(main())

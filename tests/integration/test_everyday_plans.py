"""What is asked all day long is found by indexes and in few partitions, however long the history is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from benchmarks.everyday_questions import COUNT_ROWS, asked, look_at_plan, questions, report_on_the_ended
from benchmarks.long_history import CHILD, History, write_history
from mail_orchestration.audience.importing import ensure_installation
from mail_orchestration.feedback import frequency_figures, kept_reports
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.kernel.tokens import SigningKeys

ROWS, DAYS = 40_000, 4
MOST_READ = {"delivery_log": 60, "assembled_message": 40, "message_block": 10}
"""Rows of a day that are enough to show fifty, to find one message of thousands, and to read what five hundred say."""
MOST_READ_ELSEWHERE = 2 * CHILD
"""What the largest question, the figures of a child, reads, and to spare."""
MOST_SCANNED = 200
ALL_DAYS = {"delivery_log", "daily_mail_count", "held_mail_log", "loose_mail_message", "queue_history"}
"""Tables of which a question may ask every day: who looks for something does not know when it was."""


@pytest.fixture(scope="module")
def history(
    create_database: Callable[..., str], migrated_template: str, short_folder: Path
) -> Iterator[tuple[Installation, History]]:
    url = create_database(migrated_template)
    with Database.open(url, short_folder, application_name="tests") as database:
        with database.begin() as connection:
            number = ensure_installation(connection, "main")
        inst = Installation(
            settings=Settings(),
            database=database,
            installation_id=number,
            keys=SigningKeys({"t1": bytes(32)}),
        )
        written = write_history(database, number, rows=ROWS, days=DAYS)
        report_on_the_ended(inst, written)
        yield inst, written


def faults(inst: Installation, ask: Callable[[], object]) -> Iterator[str]:
    """What is wrong with the plans of one question."""
    for statement, parameters in asked(ask):
        plan = look_at_plan(inst, statement, parameters, indexes_only=True)
        yield from (f"scans {table}" for table, rows in plan.scanned.items() if rows > MOST_SCANNED)
        yield from (
            f"reads {rows} of {table}" for table, rows in plan.read.items() if rows > most_read(table)
        )
        yield from (
            f"looks into {number} days of {table}"
            for table, number in plan.partitions.items()
            if number > 2 and table not in ALL_DAYS
        )


def most_read(table: str) -> int:
    return MOST_READ.get(table.rstrip("0123456789").rstrip("_"), MOST_READ_ELSEWHERE)


@pytest.fixture(autouse=True)
def _large_is_as_in_this_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_reports, "COUNTED_AT_ONCE", 5_000)


@pytest.mark.rule("4.6", "10.4", "11.3")
def test_no_question_reads_what_it_is_not_about(history: tuple[Installation, History]) -> None:
    found = {name: list(faults(history[0], ask)) for name, ask in questions(*history).items()}
    assert {name: each for name, each in found.items() if each and name not in COUNT_ROWS} == {}


@pytest.mark.rule("10.4", "8.9", "11.3")
def test_what_was_counted_is_not_counted_again(
    history: tuple[Installation, History], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the rows of a large mail job under way, nor more counters than are counted at once."""
    inst, _ = history
    monkeypatch.setattr(frequency_figures, "COUNTED_AT_ONCE", 0)
    counted = {
        "report: half of a large one is sent": ("result_", "assembled_message_", "recipient_", "bypass_"),
        "frequency": ("frequency_counter",),
    }
    for name, tables in counted.items():
        read = {
            table
            for statement, parameters in asked(questions(*history)[name])
            for table, rows in look_at_plan(inst, statement, parameters).read.items()
            if rows
        }
        assert read
        assert not [table for table in read if table.startswith(tables)], name


@pytest.mark.rule("11.3")
def test_a_lost_index_is_noticed(history: tuple[Installation, History]) -> None:
    inst, written = history
    ask = questions(inst, written)["delivery-log --address of nobody"]
    assert not list(faults(inst, ask))
    with inst.database.begin() as connection:
        connection.execute(text("DROP INDEX delivery_log_of_address"))
    assert list(faults(inst, ask))

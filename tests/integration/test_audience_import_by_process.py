"""A file that is large enough is read by a process of its own: nothing else may be different for it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mail_orchestration.audience import checking_ahead
from mail_orchestration.audience.importing import ImportSummary, ensure_installation, import_audience, rejects
from mail_orchestration.audience.rows import ROWS_PER_BATCH
from mail_orchestration.audience.sources import CsvSource
from mail_orchestration.audience.suppressing import import_suppressions
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import BadAudience

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
_COUNT = 4 * ROWS_PER_BATCH


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And no process is left behind, whatever happens to an import."""
    monkeypatch.setattr(checking_ahead, "_WORTH_A_PROCESS", 0)
    monkeypatch.setattr(checking_ahead, "_by_thread", None)
    yield
    assert not _readers()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "list.csv"


@pytest.fixture
def installation_id(database: Database) -> int:
    with database.begin() as connection:
        return ensure_installation(connection, "main")


def _readers() -> list[Any]:
    return [each for each in multiprocessing.active_children() if each.name == "audience-source"]


def _rows(start: int, end: int, note: str = "a\\\tb") -> str:
    return "".join(f"R{n}@example.com,de,{note} {n}\n" for n in range(start, end))


def _import(database: Database, installation_id: int, path: Path, **options: Any) -> ImportSummary:
    source = CsvSource(path=path, encoding=options.pop("encoding", "utf-8"))
    return import_audience(database, installation_id, "readers", source, now=NOW, **options)


def _members(database: Database) -> dict[str, tuple[str, str]]:
    rows = text("SELECT address, locale, attributes FROM audience_member JOIN contact USING (contact_id)")
    with database.begin() as connection:
        return {row.address: (row.locale, row.attributes["note"]) for row in connection.execute(rows)}


@pytest.mark.rule("1.1", "1.2")
def test_new_and_known_addresses_and_bad_rows(database: Database, installation_id: int, path: Path) -> None:
    path.write_text("email,locale,note\n" + _rows(0, ROWS_PER_BATCH) + "nobody,,\n" + _rows(0, 5))
    first = _import(database, installation_id, path)
    assert (first.rows_accepted, first.rows_repeated, first.by_reason) == (
        ROWS_PER_BATCH,
        5,
        {"bad_address": 1},
    )
    with database.begin() as connection:
        (reject,) = rejects(connection, first.import_id, 10)
    assert (reject.line, reject.value) == (ROWS_PER_BATCH + 2, "nobody")
    assert _members(database) == {f"R{n}@example.com": ("de", f"a\\\tb {n}") for n in range(ROWS_PER_BATCH)}
    # The first chunk is all new; the second is not, when chunks with numbers of their own are under way already.
    path.write_text("email,locale,note\n" + _rows(ROWS_PER_BATCH, _COUNT) + _rows(0, ROWS_PER_BATCH, "again"))
    told: list[int] = []
    second = _import(database, installation_id, path, mode="replace", progress=told.append)
    assert (second.rows_accepted, second.members, second.members_removed) == (_COUNT, _COUNT, 0)
    assert told == sorted(told)
    assert told[-1] == _COUNT
    members = _members(database)
    assert len(members) == _COUNT
    for n in range(_COUNT):
        note = "again" if n < ROWS_PER_BATCH else "a\\\tb"
        assert members[f"R{n}@example.com"] == ("de", f"{note} {n}")


@pytest.mark.rule("1.2")
def test_known_addresses_from_the_first_chunk_on(
    database: Database, installation_id: int, path: Path
) -> None:
    path.write_text("email,locale,note\n" + _rows(0, 1))
    _import(database, installation_id, path)
    path.write_text("email,locale,note\n" + _rows(0, _COUNT, "next\\n"))
    assert _import(database, installation_id, path).rows_accepted == _COUNT
    assert _members(database) == {f"R{n}@example.com": ("de", f"next\\n {n}") for n in range(_COUNT)}


@pytest.mark.rule("1.5")
def test_a_list_of_suppressions(database: Database, installation_id: int, path: Path) -> None:
    path.write_text("email,locale,note\n" + _rows(0, ROWS_PER_BATCH + 5) + "nobody,,\n")
    summary = import_suppressions(database, installation_id, CsvSource(path=path), "manual", now=NOW)
    assert (summary.rows_suppressed, summary.rows_rejected) == (ROWS_PER_BATCH + 5, 1)


@pytest.mark.rule("1.2")
def test_a_source_that_breaks_off_changes_nothing(
    database: Database, installation_id: int, path: Path
) -> None:
    good = ("email,locale,note\n" + _rows(0, 2 * ROWS_PER_BATCH)).encode("utf-16")
    path.write_bytes(good + b"\x00\xdc\x00")
    with pytest.raises(BadAudience, match=r"list\.csv:\d+: this is not utf-16"):
        _import(database, installation_id, path, encoding="utf-16")
    path.write_text("name\nann\n")
    with pytest.raises(BadAudience, match="there is no column 'email'"):
        _import(database, installation_id, path)
    assert not _members(database)


@pytest.mark.rule("1.2")
@pytest.mark.parametrize("known", [0, 1])
def test_the_process_is_killed(database: Database, installation_id: int, path: Path, known: int) -> None:
    path.write_text("email,locale,note\n" + _rows(0, known))
    _import(database, installation_id, path)
    path.write_text("email,locale,note\n" + _rows(0, 3 * _COUNT, "next"))

    def kill(read: int) -> None:
        for reader in _readers():
            reader.kill()

    with pytest.raises(BadAudience, match="the process that reads it has ended before the last row"):
        _import(database, installation_id, path, progress=kill)
    assert len(_members(database)) == known
    assert _import(database, installation_id, path).rows_accepted == 3 * _COUNT


class _Enough(Exception):
    pass


@pytest.mark.rule("1.2")
def test_the_import_is_given_up(database: Database, installation_id: int, path: Path) -> None:
    path.write_text("email,locale,note\n" + _rows(0, 3 * _COUNT))

    def stop(read: int) -> None:
        assert len(_readers()) == 1
        raise _Enough

    with pytest.raises(_Enough):
        _import(database, installation_id, path, progress=stop)
    assert not _readers()
    assert not _members(database)

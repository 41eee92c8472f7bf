from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mail_orchestration.audience.importing import (
    ImportSummary,
    audience_sizes,
    ensure_audience,
    ensure_installation,
    import_audience,
    rejects,
)
from mail_orchestration.audience.rows import ROWS_PER_BATCH, Batch
from mail_orchestration.audience.sources import CsvSource
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import BadAudience

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class Lists:
    """Imports texts as CSV files into one installation."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        with database.begin() as connection:
            self.installation_id = ensure_installation(connection, "main")

    def fill(self, audience: str, content: str, mode: Any = "append", **options: Any) -> ImportSummary:
        path = self.folder / "list.csv"
        path.write_text(content, encoding="utf-8", newline="")
        source = CsvSource(path=path, **options)
        return import_audience(self.database, self.installation_id, audience, source, mode=mode, now=NOW)

    def members(self, audience: str) -> dict[str, dict[str, Any]]:
        rows = text(
            "SELECT c.address, m.body_format, m.locale, m.guid, m.url, m.attributes FROM audience_member AS m "
            "JOIN contact AS c USING (contact_id) JOIN audience AS a USING (audience_id) WHERE a.name = :name"
        )
        with self.database.begin() as connection:
            return {row.address: row._asdict() for row in connection.execute(rows, {"name": audience})}

    def contacts(self) -> int:
        with self.database.begin() as connection:
            return int(connection.scalars(text("SELECT count(*) FROM contact")).one())


@pytest.fixture
def lists(database: Database, tmp_path: Path) -> Lists:
    return Lists(database, tmp_path)


@pytest.mark.rule("1.1", "1.2")
def test_bad_rows_are_set_aside_and_the_rest_is_imported(lists: Lists) -> None:
    summary = lists.fill(
        "readers",
        "E-Mail;First Name;body_format;locale\r\n"
        ' Ann@EXAMPLE.com ;"Ann ""A"" \\ \t back\\nslash";MHTML;de\r\n'
        "\r\n"
        "no address;Nobody;;\r\n"
        ";Nobody;;\r\n"
        "ben@example.com;Ben\r\n"
        'cid@example.com;"Cid\r\nof two lines";;\r\n'
        '"dan@example.com;Dan;;\r\n'
        "eve@bücher.example;Eve;;\r\n"
        "ANN@example.com;Second Ann;text;fr\r\n"
        "fay@example.com;Fay\0;;\r\n",
        delimiter=";",
        address_column="e_mail",
    )
    assert summary.by_reason == {
        "bad_address": 1,
        "no_address": 1,
        "wrong_cell_count": 1,
        "malformed": 1,
        "nul_character": 1,
    }
    assert (summary.rows_read, summary.rows_accepted, summary.rows_repeated, summary.rows_rejected) == (
        9,
        3,
        1,
        5,
    )
    assert summary.members == 3
    members = lists.members("readers")
    assert members["Ann@example.com"] == {
        "address": "Ann@example.com",
        "body_format": "mhtml",
        "locale": "de",
        "guid": None,
        "url": None,
        "attributes": {"first_name": 'Ann "A" \\ \t back\\nslash'},
    }
    assert members["cid@example.com"]["attributes"] == {"first_name": "Cid\r\nof two lines"}
    assert members["eve@xn--bcher-kva.example"]["body_format"] is None
    with lists.database.begin() as connection:
        found = rejects(connection, summary.import_id, 100)
        assert [(each.line, each.code) for each in found] == [
            (4, "bad_address"),
            (5, "no_address"),
            (6, "wrong_cell_count"),
            (9, "malformed"),
            (12, "nul_character"),
        ]
        assert found[0].value == "no address"
        assert found[2].value == "ben@example.com;Ben\r\n"
        (size,) = audience_sizes(connection, lists.installation_id)
        assert (size.name, size.members, size.last_import_id) == ("readers", 3, summary.import_id)


@pytest.mark.rule("1.2")
def test_a_later_import_refreshes_details_and_replace_removes_who_is_not_named(lists: Lists) -> None:
    lists.fill("readers", "email,city\nann@example.com,Bonn\nben@example.com,Rome\n")
    again = lists.fill("readers", "email,city\nANN@example.com,Oslo\ncid@example.com,Nice\n")
    assert (again.rows_accepted, again.members, again.members_removed) == (2, 3, 0)
    members = lists.members("readers")
    assert {address: row["attributes"]["city"] for address, row in members.items()} == {
        "ann@example.com": "Oslo",
        "ben@example.com": "Rome",
        "cid@example.com": "Nice",
    }
    replaced = lists.fill("readers", "email\nben@example.com\n", mode="replace")
    assert (replaced.members, replaced.members_removed) == (1, 2)
    assert lists.members("readers")["ben@example.com"]["attributes"] is None
    assert lists.contacts() == 3
    emptied = lists.fill("readers", "email\n", mode="replace")
    assert (emptied.members, emptied.members_removed) == (0, 1)


@pytest.mark.rule("1.2")
def test_replace_with_rows_but_none_usable_leaves_the_audience(lists: Lists) -> None:
    lists.fill("readers", "email\nann@example.com\n")
    with pytest.raises(BadAudience, match=r"none of its 2 rows is usable \(2 bad_address\)"):
        lists.fill("readers", "email\nann\nben\n", mode="replace")
    assert set(lists.members("readers")) == {"ann@example.com"}


@pytest.mark.rule("1.2")
def test_the_first_row_wins_over_many_batches(lists: Lists) -> None:
    count = 2 * ROWS_PER_BATCH + 10
    rows = [f"r{n % (ROWS_PER_BATCH + 5)}@example.com,{n}\n" for n in range(count)]
    told: list[int] = []
    path = lists.folder / "big.csv"
    path.write_text("email,n\n" + "".join(rows))
    summary = import_audience(
        lists.database, lists.installation_id, "big", CsvSource(path=path), now=NOW, progress=told.append
    )
    assert summary.rows_read == count
    assert summary.rows_accepted == summary.members == ROWS_PER_BATCH + 5
    assert summary.rows_repeated == count - summary.members
    assert told[-1] == count
    assert len(told) >= 3
    assert all(
        row["attributes"]["n"] == address[1:].split("@")[0] for address, row in lists.members("big").items()
    )


class _BreaksOff:
    name = "a source that breaks off"

    def __init__(self, source: CsvSource) -> None:
        self._source = source

    def batches(self) -> Iterator[Batch]:
        yield from self._source.batches()
        raise BadAudience(f"{self.name}: gone")


@pytest.mark.rule("1.2")
@pytest.mark.parametrize("mode", ["append", "replace"])
def test_an_import_that_is_cut_off_changes_nothing_and_can_be_repeated(lists: Lists, mode: Any) -> None:
    lists.fill("readers", "email,city\nann@example.com,Bonn\n")
    path = lists.folder / "next.csv"
    path.write_text("email,city\nann@example.com,Oslo\nben@example.com,Rome\n")
    with pytest.raises(BadAudience, match="gone"):
        import_audience(
            lists.database,
            lists.installation_id,
            "readers",
            _BreaksOff(CsvSource(path=path)),
            mode=mode,
            now=NOW,
        )
    assert lists.members("readers")["ann@example.com"]["attributes"] == {"city": "Bonn"}
    assert lists.contacts() == 1
    with lists.database.begin() as connection:
        cut_off = connection.scalars(
            text("SELECT count(*) FROM audience_import WHERE finished_at IS NULL")
        ).one()
    assert cut_off == 1
    repeated = import_audience(
        lists.database, lists.installation_id, "readers", CsvSource(path=path), mode=mode, now=NOW
    )
    assert repeated.rows_accepted == 2


@pytest.mark.rule("1.1", "1.2")
def test_imports_at_the_same_time_wait_for_each_other_and_lose_nothing(lists: Lists) -> None:
    paths = []
    for number in range(4):
        path = lists.folder / f"{number}.csv"
        step = 1 if number % 2 else -1
        path.write_text("email\n" + "".join(f"r{n}@example.com\n" for n in range(500)[::step]))
        paths.append(path)
    done: list[ImportSummary] = []

    def run(number: int) -> None:
        source = CsvSource(path=paths[number])
        done.append(
            import_audience(lists.database, lists.installation_id, f"list {number % 2}", source, now=NOW)
        )

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [summary.rows_accepted for summary in done] == [500] * 4
    assert lists.contacts() == 500


def test_names_are_made_once(database: Database) -> None:
    with database.begin() as connection:
        first = ensure_installation(connection, "main")
        assert ensure_installation(connection, "main") == first
        audience = ensure_audience(connection, first, "readers")
        assert ensure_audience(connection, first, "readers") == audience
        other = ensure_installation(connection, "other")
        assert ensure_audience(connection, other, "readers") != audience

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.audience.importing import ensure_installation, import_audience
from mail_orchestration.audience.sources import CsvSource
from mail_orchestration.audience.suppressing import import_suppressions, suppress_address, suppress_contact
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import BadAddress, BadAudience, BadInput

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


@pytest.fixture
def installation_id(database: Database) -> int:
    with database.begin() as connection:
        return ensure_installation(connection, "main")


def _stored(database: Database) -> list[tuple[str, str, str]]:
    rows = text(
        "SELECT address, topic, reason FROM suppression JOIN contact USING (contact_id) ORDER BY 1, 2"
    )
    with database.begin() as connection:
        return [tuple(row) for row in connection.execute(rows)]


@pytest.mark.rule("1.5")
def test_an_address_is_suppressed_once_and_whoever_it_is(database: Database, installation_id: int) -> None:
    with database.begin() as connection:
        assert suppress_address(connection, installation_id, "Ann@Example.com", "hard_bounce", now=NOW)
        assert not suppress_address(connection, installation_id, "ann@example.com", "complaint", now=NOW)
        assert suppress_address(
            connection, installation_id, "ann@example.com", "opted_out_of_topic", topic="news", now=NOW
        )
        contact_id = connection.scalars(text("SELECT contact_id FROM contact")).one()
        assert not suppress_contact(connection, contact_id, "manual", now=NOW)
    assert _stored(database) == [
        ("Ann@example.com", "", "hard_bounce"),
        ("Ann@example.com", "news", "opted_out_of_topic"),
    ]


@pytest.mark.rule("1.5")
def test_what_is_no_suppression_is_refused(database: Database, installation_id: int) -> None:
    with database.begin() as connection:
        for reason, topic in [("bored", ""), ("manual", "news"), ("opted_out_of_topic", "")]:
            with pytest.raises(BadInput, match=r"reason|topic"):
                suppress_address(connection, installation_id, "ann@example.com", reason, topic=topic, now=NOW)
        with pytest.raises(BadAddress):
            suppress_address(connection, installation_id, "ann", "manual", now=NOW)


@pytest.mark.rule("1.5")
def test_a_list_suppresses_contacts_and_those_who_are_none_yet(
    database: Database, installation_id: int, tmp_path: Path
) -> None:
    members = tmp_path / "members.csv"
    members.write_text("email\nann@example.com\nben@example.com\n")
    import_audience(database, installation_id, "members", CsvSource(path=members), now=NOW)
    path = tmp_path / "opt-outs.csv"
    huge = "x" * 100_000 + '",' + "y" * 100_000
    path.write_text(
        f'email,why,more\nANN@example.com,,\nzoe@example.com,"{huge}\nann@example.com,,\nnobody,,\n'
    )
    with database.begin() as connection:
        suppress_address(connection, installation_id, "ben@example.com", "complaint", now=NOW)
    summary = import_suppressions(database, installation_id, CsvSource(path=path), "opted_out", now=NOW)
    # A suppression is not lost for what else its row holds.
    assert (summary.rows_read, summary.rows_suppressed, summary.rows_repeated, summary.rows_rejected) == (
        4,
        2,
        1,
        1,
    )
    assert summary.by_reason == {"bad_address": 1}
    assert [(each.line, each.value) for each in summary.rejects] == [(5, "nobody")]
    assert "nobody" not in repr(summary)
    assert _stored(database) == [
        ("ann@example.com", "", "opted_out"),
        ("ben@example.com", "", "complaint"),
        ("zoe@example.com", "", "opted_out"),
    ]
    again = import_suppressions(database, installation_id, CsvSource(path=path), "opted_out", now=NOW)
    assert (again.rows_suppressed, again.rows_already) == (0, 2)
    with database.begin() as connection:
        assert connection.scalars(text("SELECT count(*) FROM audience_member")).one() == 2


@pytest.mark.rule("1.5")
def test_a_list_that_cannot_be_read_suppresses_nobody(
    database: Database, installation_id: int, tmp_path: Path
) -> None:
    with pytest.raises(BadAudience):
        import_suppressions(
            database, installation_id, CsvSource(path=tmp_path / "gone.csv"), "manual", now=NOW
        )
    with pytest.raises(BadInput, match="topic"):
        import_suppressions(
            database, installation_id, CsvSource(path=tmp_path / "gone.csv"), "opted_out", "news", now=NOW
        )
    assert _stored(database) == []

"""A database that is another one sends nothing until the operator confirms it (spec 5.8)."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from mail_orchestration import holding
from tests.integration.restored_installations import may_send, settings, worked_with
from tests.scenarios.installations import execute, opened

__all__ = ["settings", "worked_with"]


@pytest.mark.rule("5.8")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("system_identifier = system_identifier + 1", "another server"),
        ("timeline = timeline + 1", "another timeline"),
    ],
)
def test_another_server_and_another_timeline_are_noticed(
    worked_with: str, settings: Path, monkeypatch: pytest.MonkeyPatch, change: str, why: str
) -> None:
    with opened(settings, worked_with, monkeypatch) as inst:
        execute(inst, f"UPDATE database_identity SET {change}, written_in = pg_current_xact_id()")
        assert not may_send(inst)
        [found] = holding.why_held(inst)
        assert why in found.reason
        holding.resume(inst, after_restore=True)
        assert may_send(inst)


@pytest.mark.rule("5.8")
def test_a_promoted_standby_goes_on_where_the_settings_say_so(
    worked_with: str, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with settings.open("a", encoding="utf-8") as file:
        file.write("\n")
    written = settings.read_text(encoding="utf-8").replace(
        "dispatcher:\n", "dispatcher:\n  accept_promoted_standby: true\n"
    )
    settings.write_text(written, encoding="utf-8")
    with opened(settings, worked_with, monkeypatch) as inst:
        execute(
            inst, "UPDATE database_identity SET timeline = timeline + 1, written_in = pg_current_xact_id()"
        )
    with opened(settings, worked_with, monkeypatch) as inst:
        assert may_send(inst)
        execute(
            inst,
            "UPDATE database_identity SET timeline = timeline + 1, database_oid = 1, "
            "written_in = pg_current_xact_id()",
        )
        assert not may_send(inst)


@pytest.mark.rule("5.8")
def test_a_role_that_may_not_see_the_server_still_recognises_a_dump(
    worked_with: str, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(settings, worked_with, monkeypatch) as inst, inst.database.begin() as connection:
        connection.execute(text("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM public"))
        connection.execute(text("CREATE ROLE plain"))
        connection.execute(text("GRANT USAGE ON SCHEMA mail_orchestration TO plain"))
        connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA mail_orchestration TO plain"))
        connection.execute(text("SET ROLE plain"))
        found = connection.execute(
            text("SELECT system_identifier, timeline IS NOT NULL AS knows FROM this_database()")
        )
        row = found.one()
        assert (row.system_identifier, row.knows) == (None, True)
        assert connection.scalar(text("SELECT database_differs()")) == []
        connection.execute(text("RESET ROLE"))
        connection.execute(text("DROP OWNED BY plain"))
        connection.execute(text("DROP ROLE plain"))
        connection.execute(text("GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO public"))


@pytest.mark.rule("5.8")
def test_work_by_many_processes_at_once_makes_a_database_known_once(
    database_url: str, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database_url, options="-c search_path=mail_orchestration") as watching:

        def open_it() -> None:
            with opened(settings, database_url, monkeypatch):
                pass

        threads = [threading.Thread(target=open_it) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert watching.execute("SELECT count(*) FROM database_identity").fetchone() == (1,)
        assert watching.execute("SELECT count(*) FROM sending_hold").fetchone() == (0,)

"""A dump that was read in and a copy of a database send nothing until the operator confirms it (spec 5.8)."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from mail_orchestration import holding
from mail_orchestration.cli.commands import run
from mail_orchestration.dispatch.claims import claim_chosen
from mail_orchestration.dispatch.holds import HoldCause
from mail_orchestration.kernel.embedded_postgres.account import server_account
from mail_orchestration.kernel.embedded_postgres.binaries import find_binaries
from mail_orchestration.kernel.errors import StateConflict
from mail_orchestration.mailcaster import has_work, work_on
from tests.integration.restored_installations import may_send, settings, worked_with
from tests.scenarios.installations import claim, execute, now, opened

__all__ = ["settings", "worked_with"]


@pytest.fixture(scope="session")
def programs(short_folder: Path) -> Path:
    """The folder with pg_dump and psql of the server's version."""
    account = server_account(short_folder)
    folder = find_binaries(account, short_folder, None).folder
    if not (folder / "pg_dump").exists():
        pytest.fail(f"{folder} has no pg_dump")
    return folder


def dump(programs: Path, url: str, *options: str) -> str:
    made = subprocess.run(
        [programs / "pg_dump", "--schema=mail_orchestration", *options, url],
        check=True,
        capture_output=True,
        text=True,
    )
    return made.stdout


def read_in(programs: Path, url: str, script: str, *, may_fail: bool = False) -> None:
    stop = [] if may_fail else ["-v", "ON_ERROR_STOP=1"]
    done = subprocess.run(
        [programs / "psql", "-q", "-X", *stop, url], input=script, text=True, check=False, capture_output=True
    )
    assert done.returncode == 0 or may_fail, done.stderr


@pytest.mark.rule("5.8")
def test_a_dump_in_another_database_waits_for_the_operator(
    worked_with: str,
    create_database: Callable[..., str],
    programs: Path,
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = create_database()
    read_in(programs, copy, dump(programs, worked_with))
    with opened(settings, copy, monkeypatch) as inst:
        assert not may_send(inst)
        [found] = holding.why_held(inst)
        assert found.cause is HoldCause.RESTORED
        assert "another database" in found.reason
        with pytest.raises(StateConflict, match="restored"):
            work_on(inst, "m1", 1, threading.Event())

        with pytest.raises(StateConflict, match="1 mail jobs in it have not ended"):
            holding.resume(inst)
        monkeypatch.chdir(settings.parent)
        assert run(["status"]) == 0
        assert "nothing is sent" in capsys.readouterr().out
        assert run(["resume"]) == 4
        assert run(["resume", "--after-restore"]) == 0
        assert "unfinished mail jobs" in capsys.readouterr().out
        assert may_send(inst)
        with inst.database.begin() as connection:
            row = connection.execute(
                text("SELECT lifted_by, held_by, lifted_at >= held_at FROM sending_hold")
            )
            assert [bool(each) for each in row.one()] == [True, True, True]
    with opened(settings, copy, monkeypatch) as inst:
        assert may_send(inst)
    # The first one was only read: it is what it was.
    with opened(settings, worked_with, monkeypatch) as inst:
        assert may_send(inst)


@pytest.mark.rule("5.8")
def test_a_claim_sees_by_itself_that_the_database_was_exchanged(
    worked_with: str, programs: Path, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = dump(programs, worked_with, "--clean", "--if-exists")
    with opened(settings, worked_with, monkeypatch) as inst:
        parameters = inst.settings.mailcaster("m1")
        # It complains about the indexes of partitions, which go with their tables, and goes on.
        read_in(programs, worked_with, script, may_fail=True)
        assert claim(inst) is None
        assert claim_chosen(inst.database, inst.installation_id, 1, parameters, now=now()) is None
        assert not has_work(inst, "m1")
        [found] = holding.why_held(inst)
        assert "made anew" in found.reason


@pytest.mark.rule("5.8")
def test_rows_read_into_a_database_in_use_are_noticed(
    worked_with: str,
    create_database: Callable[..., str],
    migrated_template: str,
    programs: Path,
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = dump(programs, worked_with, "--data-only", "--exclude-table=alembic_version")
    fresh = create_database(migrated_template)
    with opened(settings, fresh, monkeypatch) as inst:
        assert holding.why_held(inst) == []
        execute(inst, "DELETE FROM installation")
        partitions = "SELECT ensure_day_partitions(CAST(now() AS date))"
        execute(inst, partitions)
        read_in(programs, fresh, rows, may_fail=True)
        assert not may_send(inst)


@pytest.mark.rule("5.8")
def test_a_copy_of_the_database_waits_for_the_operator(
    worked_with: str,
    create_database: Callable[..., str],
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = create_database(urlsplit(worked_with).path.removeprefix("/"))
    with opened(settings, copy, monkeypatch) as inst:
        assert not may_send(inst)

"""A database that was restored or copied sends nothing until the operator confirms it (spec 5.8)."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import text

from mail_orchestration import holding
from mail_orchestration.cli.commands import run
from mail_orchestration.dispatch import restore_fence
from mail_orchestration.dispatch.claims import claim_chosen, claim_next
from mail_orchestration.dispatch.holds import HoldCause, holds
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.embedded_postgres.account import server_account
from mail_orchestration.kernel.embedded_postgres.binaries import find_binaries
from mail_orchestration.kernel.errors import StateConflict
from mail_orchestration.mailcaster import has_work, run_shift, work_on
from tests.scenarios.installations import now, opened, released, write_site

CONTACTS = 40


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """An installation whose relay nobody has started."""
    return write_site(tmp_path, relay_port=9, contacts=CONTACTS, dispatcher={"assembly_processes": 1})


@pytest.fixture(scope="session")
def programs(short_folder: Path) -> Path:
    """The folder with pg_dump and psql of the server's version."""
    account = server_account(short_folder)
    folder = find_binaries(account, short_folder, None).folder
    if not (folder / "pg_dump").exists():
        pytest.fail(f"{folder} has no pg_dump")
    return folder


@pytest.fixture
def open_on(settings: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """The installation on a database, for a block."""

    def open_it(url: str) -> object:
        return opened(settings, url, monkeypatch)

    return open_it


@pytest.fixture
def worked_with(settings: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database in which a small mail job waits."""
    with opened(settings, database_url, monkeypatch) as inst:
        released(inst)
        assert may_send(inst)
    return database_url


def may_send(inst: Installation) -> bool:
    """Whether there is work for the mailcaster; checked in all the ways that there are."""
    has = has_work(inst, "m1")
    assert has == (not holding.why_held(inst))
    if not has:
        assert take(inst) is None
        assert run_shift(inst, "m1", stop=threading.Event()).ended_because == "held"
    return has


def take(inst: Installation) -> object:
    return claim_next(
        inst.database, inst.installation_id, inst.settings.mailcaster("m1"), now=now(), hang_after_s=7200
    )


def execute(inst: Installation, statement: str, **binds: object) -> None:
    with inst.database.begin() as connection:
        connection.execute(text(statement), binds)


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
        assert take(inst) is None
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
    worked_with: str,
    server_url: str,
    create_database: Callable[..., str],
    programs: Path,
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
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
def test_files_that_were_put_back_are_noticed_by_the_log(
    worked_with: str, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [file] = (settings.parent / ".mail_orchestration").glob("*.seen")
    seen = restore_fence.Seen.read(file)
    assert seen is not None
    ahead = restore_fence.Seen(confirmed_at=seen.confirmed_at, log_position=seen.log_position + 2**40)
    ahead.write(file)
    with opened(settings, worked_with, monkeypatch) as inst:
        assert not may_send(inst)
        [found] = holding.why_held(inst)
        assert "went back in time" in found.reason
        holding.resume(inst, after_restore=True)
        assert may_send(inst)
    confirmed = restore_fence.Seen.read(file)
    assert confirmed is not None
    assert confirmed.confirmed_at > seen.confirmed_at

    # Another host, which has not seen the confirmation yet, believes it; what it saw later than this, it does not.
    ahead.write(file)
    with opened(settings, worked_with, monkeypatch) as inst:
        assert may_send(inst)
    later = datetime.fromisoformat(confirmed.confirmed_at).replace(year=2100).isoformat()
    restore_fence.Seen(confirmed_at=later, log_position=0).write(file)
    with opened(settings, worked_with, monkeypatch) as inst:
        assert not may_send(inst)
        holding.resume(inst, after_restore=True)
        assert may_send(inst)


@pytest.mark.rule("5.8")
def test_files_that_are_put_back_under_an_open_installation_are_noticed_by_the_next_shift(
    worked_with: str, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(settings, worked_with, monkeypatch) as inst:
        [file] = (settings.parent / ".mail_orchestration").glob("*.seen")
        seen = restore_fence.Seen.read(file)
        assert seen is not None
        restore_fence.Seen(confirmed_at=seen.confirmed_at, log_position=seen.log_position + 2**40).write(file)
        over = threading.Event()
        over.set()
        run_shift(inst, "m1", stop=over)
        with inst.database.begin() as connection:
            [hold] = holds(connection, inst.installation_id)
        assert hold.cause is HoldCause.RESTORED


@pytest.mark.rule("5.8")
def test_a_data_folder_that_was_put_back_or_recovered_from_an_archive_is_noticed(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = short_folder / "put-back"
    folder.mkdir(mode=0o711)
    settings = write_site(folder, relay_port=9, contacts=CONTACTS, dispatcher={"assembly_processes": 1})

    @contextmanager
    def opened_embedded() -> Iterator[Installation]:
        with opened(settings, "", monkeypatch) as inst:
            yield inst

    data = folder / ".mail_orchestration" / "postgres" / "data"
    with opened_embedded() as inst:
        released(inst)
    shutil.copytree(data.resolve(), folder / "backup", symlinks=True)
    _own_like(data, folder / "backup")
    with opened_embedded() as inst:
        assert may_send(inst)
        execute(inst, "UPDATE mail_job SET reason = 'work after the backup'")
    real = data.resolve()
    shutil.rmtree(real)
    shutil.move(folder / "backup", real)
    with opened_embedded() as inst:
        assert not may_send(inst)
        holding.resume(inst, after_restore=True)
        assert may_send(inst)

    # Recovery from an archive, as to a point in time: the server goes on on a timeline of its own.
    with (real / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
        file.write("restore_command = 'false'\nhot_standby = off\n")
    (real / "recovery.signal").touch()
    _own_like(real, real)
    with opened_embedded() as inst:
        assert not may_send(inst)
        assert "another timeline" in holding.why_held(inst)[0].reason
        holding.resume(inst, after_restore=True)
        assert may_send(inst)


def _own_like(original: Path, copy: Path) -> None:
    facts = original.stat()
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            shutil.chown(path, facts.st_uid, facts.st_gid)


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


@pytest.mark.rule("5.8")
def test_another_process_that_sees_the_log_further_on_in_this_moment_is_no_restore(
    settings: Path, worked_with: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = restore_fence.Seen.read

    with opened(settings, worked_with, monkeypatch) as inst:

        def read_after_another_wrote(file: Path) -> restore_fence.Seen | None:
            """Between our look at the database and our look at the file."""
            monkeypatch.setattr(restore_fence.Seen, "read", read)
            with inst.database.begin() as other:
                other.execute(text("CREATE TABLE more_log AS SELECT generate_series(1, 1000)"))
            with inst.database.begin() as other:
                assert restore_fence.recognise(other, inst.settings.data_dir, by="another") is None
            return read(file)

        monkeypatch.setattr(restore_fence.Seen, "read", read_after_another_wrote)
        with inst.database.begin() as connection:
            assert restore_fence.recognise(connection, inst.settings.data_dir, by="tests") is None
        assert may_send(inst)

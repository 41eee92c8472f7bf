"""Files of a server that were put back send nothing until the operator confirms it (spec 5.8)."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration import holding
from mail_orchestration.dispatch import restore_fence
from mail_orchestration.dispatch.holds import HoldCause, holds
from mail_orchestration.installation import Installation
from mail_orchestration.mailcaster import run_shift
from tests.integration.restored_installations import CONTACTS, may_send, settings, worked_with
from tests.scenarios.installations import execute, opened, released, write_site

__all__ = ["settings", "worked_with"]


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

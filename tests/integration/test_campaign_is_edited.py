"""A campaign that is edited while its mail jobs wait makes them STOPPED, whoever notices it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mail_orchestration.broadcast import (
    assemble_release,
    queue_release,
    resolve_release,
)
from mail_orchestration.broadcast import release as read_release
from mail_orchestration.composition import edits
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import StateConflict
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.maintenance import clean_delivery_queue
from tests.integration.waiting_releases import WAITING, edit, folder, inst, released
from tests.scenarios.installations import claim, now, state, tally

__all__ = ["folder", "inst"]


@pytest.mark.rule("3.4")
@pytest.mark.parametrize("waiting", WAITING)
def test_an_edited_campaign_released_again_stops_what_waits(
    inst: Installation, folder: Path, waiting: str
) -> None:
    first = released(inst, folder, until=waiting)
    same = released(inst, folder, until="QUEUING")
    assert state(inst, first)[0] == waiting  # the same words twice are no edit
    edit(folder)
    third = released(inst, folder, until="QUEUING")
    for stopped in (first, same):
        found, reason = state(inst, stopped)
        assert found is MailJobState.STOPPED
        assert f"released again as mail job {third}" in reason
        tally(inst, stopped)
    assert state(inst, third)[0] is MailJobState.QUEUING


def gone(folder: Path) -> None:
    (folder / "message.html.j2").unlink()


def broken(folder: Path) -> None:
    (folder / "campaign.yaml").write_text("name: [", encoding="utf-8")


def added(folder: Path) -> None:
    (folder / "footer.txt.j2").write_text("new", encoding="utf-8")


@pytest.mark.rule("3.4")
@pytest.mark.parametrize(
    ("change", "waiting"),
    [
        *((edit, waiting) for waiting in WAITING),
        *((change, "QUEUING") for change in (gone, broken, added)),
    ],
)
def test_an_edit_is_noticed_by_the_clean_up(
    inst: Installation, folder: Path, change: Callable[[Path], None], waiting: str
) -> None:
    release_id = released(inst, folder, until=waiting)
    assert clean_delivery_queue(inst, now=now()).stopped == []
    change(folder)
    assert clean_delivery_queue(inst, now=now()).stopped == [release_id]
    assert state(inst, release_id) == (
        MailJobState.STOPPED,
        "the campaign was edited while it waited; release it again",
    )
    tally(inst, release_id)


@pytest.mark.rule("3.4")
def test_an_edit_is_noticed_before_each_step(inst: Installation, folder: Path) -> None:
    to_resolve, to_assemble, to_queue = (
        released(inst, folder, until="QUEUING", again=True) for _ in range(3)
    )
    for release_id in (to_assemble, to_queue):
        resolve_release(inst, release_id, now=now())
    assemble_release(inst, to_queue, now=now())
    edit(folder)
    with pytest.raises(StateConflict, match="STOPPED"):
        resolve_release(inst, to_resolve, now=now())
    with pytest.raises(StateConflict, match="STOPPED"):
        assemble_release(inst, to_assemble, now=now())
    assert queue_release(inst, to_queue, now=now()) is MailJobState.STOPPED
    assert tally(inst, to_queue).stopped == 150


@pytest.mark.rule("3.4")
def test_an_edit_under_way_holds_up_queueing_and_counts_when_it_is_made(
    inst: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_id = released(inst, folder, until="QUEUING")
    resolve_release(inst, release_id, now=now())
    before = (folder / "message.html.j2").read_text(encoding="utf-8")
    monkeypatch.setattr(edits, "SETTLES_AFTER", timedelta(minutes=1))
    edit(folder)
    assemble_release(inst, release_id, now=now())
    with pytest.raises(StateConflict, match="being edited"):
        queue_release(inst, release_id, now=now())
    assert clean_delivery_queue(inst, now=now()).stopped == []
    (folder / "message.html.j2").write_text(before, encoding="utf-8")
    assert queue_release(inst, release_id, now=now()) is MailJobState.P_QUEUED


@pytest.mark.rule("3.4")
def test_a_folder_that_is_not_here_says_nothing(inst: Installation, folder: Path) -> None:
    release_id = released(inst, folder)
    (folder / "campaign.yaml").rename(folder / "campaign.away")
    assert clean_delivery_queue(inst, now=now()).stopped == []
    shutil.move(folder, folder.with_name("elsewhere"))
    assert clean_delivery_queue(inst, now=now()).stopped == []
    assert state(inst, release_id)[0] is MailJobState.P_QUEUED


@pytest.mark.rule("3.4")
def test_an_older_checkout_on_another_host_is_no_edit(
    inst: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_id = released(inst, folder)
    monkeypatch.setattr(socket, "gethostname", lambda: "another-host")
    shutil.move(folder, folder.with_name("kept"))
    shutil.copytree(folder.with_name("kept"), folder)
    edit(folder, "an older text")
    assert clean_delivery_queue(inst, now=now()).stopped == []

    # The very folder, seen from another host over a shared file system, counts.
    shutil.rmtree(folder)
    shutil.move(folder.with_name("kept"), folder)
    edit(folder)
    assert clean_delivery_queue(inst, now=now()).stopped == [release_id]


@pytest.mark.rule("3.4")
def test_what_has_begun_is_not_touched_by_an_edit(inst: Installation, folder: Path) -> None:
    release_id = released(inst, folder)
    assert claim(inst) is not None
    edit(folder)
    assert clean_delivery_queue(inst, now=now()).stopped == []
    second = released(inst, folder, until="QUEUING")
    assert state(inst, release_id)[0] is MailJobState.P_ASSIGNING
    assert claim(inst) is not None
    assert read_release(inst, second).files != read_release(inst, release_id).files


def test_times_of_files_are_compared_with_this_hosts_clock() -> None:
    touched = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
    differs = edits.Difference(paths=("message.html.j2",), touched_at=touched)
    assert differs.edit(touched + timedelta(seconds=59)) is edits.Edit.UNDER_WAY
    assert differs.edit(touched + timedelta(seconds=60)) is edits.Edit.MADE
    assert edits.Difference(paths=(), touched_at=touched).edit(touched) is edits.Edit.NONE

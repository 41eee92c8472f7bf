"""A campaign that is paused holds its mail jobs; one that is edited or deleted while they wait makes them STOPPED."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from mail_orchestration import campaigns
from mail_orchestration.broadcast import (
    assemble_release,
    fill_audience,
    queue_release,
    release_campaign,
    resolve_release,
)
from mail_orchestration.broadcast import release as read_release
from mail_orchestration.cli.commands import run
from mail_orchestration.composition import edits
from mail_orchestration.dispatch.campaigns import CampaignState
from mail_orchestration.dispatch.claims import claim_next
from mail_orchestration.feedback.reports import mail_job_report
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import NotFound, StateConflict
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import has_work
from mail_orchestration.maintenance import clean_delivery_queue
from tests.scenarios.installations import now, opened, state, tally, write_site

WAITING = ("QUEUING", "INTERRUPTED", "QUEUED", "P_QUEUED")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The campaign `letter` of an installation with 150 contacts, 30 of whom are one child."""
    write_site(
        tmp_path,
        relay_port=9,
        contacts=150,
        dispatcher={"assembly_processes": 1},
        mailcasters=[{"name": "m1", "min_job_size": 10, "max_job_size": 30, "percentage_job_size": 20}],
    )
    return tmp_path / "campaigns" / "letter"


@pytest.fixture
def inst(folder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    # Edits count at once: no test waits a minute.
    monkeypatch.setattr(edits, "SETTLES_AFTER", timedelta(0))
    with opened(folder.parents[1] / "mail_orchestration.yaml", database_url, monkeypatch) as installation:
        fill_audience(installation, "everybody", now=now())
        yield installation


def released(inst: Installation, folder: Path, *, until: str = "P_QUEUED") -> int:
    """The campaign released, and carried on until its mail job is in this state."""
    release_id = release_campaign(inst, folder, now=now()).release_id
    if until == "QUEUING":
        return release_id
    if until == "INTERRUPTED":
        execute(inst, "UPDATE mail_job SET state = 'INTERRUPTED' WHERE mail_job_id = :id", id=release_id)
        return release_id
    resolve_release(inst, release_id, now=now())
    assemble_release(inst, release_id, now=now())
    queue_release(inst, release_id, now=now())
    if until == "QUEUED":
        execute(
            inst,
            "UPDATE mail_job SET kind = 'small', state = 'QUEUED', next_message = NULL WHERE mail_job_id = :id",
            id=release_id,
        )
    return release_id


def execute(inst: Installation, statement: str, **binds: object) -> None:
    with inst.database.begin() as connection:
        connection.execute(text(statement), binds)


def claim(inst: Installation) -> object:
    return claim_next(
        inst.database,
        inst.installation_id,
        inst.settings.mailcaster("m1"),
        now=now(),
        hang_after_s=7200,
    )


def edit(folder: Path, words: str = "Something else, {{ name }}.") -> None:
    (folder / "message.html.j2").write_text(f"<p>{words}</p>", encoding="utf-8")


@pytest.mark.rule("3.4")
def test_a_paused_campaign_is_assembled_and_queued_but_not_begun(inst: Installation, folder: Path) -> None:
    first = released(inst, folder, until="QUEUING")
    change = campaigns.pause(inst, "letter")
    assert (change.left, change.entered) == (CampaignState.LIVE, CampaignState.PAUSED)

    resolve_release(inst, first, now=now())
    assemble_release(inst, first, now=now())
    assert queue_release(inst, first, now=now()) is MailJobState.P_QUEUED
    assert not has_work(inst, "m1", now=now())
    assert claim(inst) is None

    assert campaigns.pause(inst, "letter").left is CampaignState.PAUSED
    assert campaigns.resume(inst, "letter").entered is CampaignState.LIVE
    assert has_work(inst, "m1", now=now())
    assert claim(inst) is not None
    assert tally(inst, first).assembled == 150


@pytest.mark.rule("3.4")
def test_pausing_lets_a_child_in_hand_go_on_and_makes_no_other(inst: Installation, folder: Path) -> None:
    release_id = released(inst, folder)
    assert claim(inst) is not None
    assert campaigns.pause(inst, "letter").begun == (release_id,)
    assert claim(inst) is None
    assert state(inst, release_id)[0] is MailJobState.P_ASSIGNING
    campaigns.resume(inst, "letter")
    assert claim(inst) is not None


@pytest.mark.rule("3.4")
def test_a_release_leaves_a_campaign_paused_and_test_is_remembered(inst: Installation, folder: Path) -> None:
    released(inst, folder, until="QUEUING")
    campaigns.pause(inst, "letter")
    write_site(
        folder.parents[1],
        relay_port=9,
        contacts=150,
        campaign={"state": "test", "test_addresses": ["us@example.org"]},
    )
    released(inst, folder, until="QUEUING")
    [listed] = campaigns.list_campaigns(inst)
    assert listed.state is CampaignState.PAUSED
    assert campaigns.resume(inst, "letter").entered is CampaignState.TEST


@pytest.mark.rule("3.4")
@pytest.mark.parametrize("waiting", WAITING)
def test_what_waits_of_a_deleted_campaign_is_stopped(inst: Installation, folder: Path, waiting: str) -> None:
    release_id = released(inst, folder, until=waiting)
    assert state(inst, release_id)[0] == waiting
    change = campaigns.delete(inst, "letter", now=now())
    assert change.stopped == (release_id,)
    found, reason = state(inst, release_id)
    assert (found, reason) == (MailJobState.STOPPED, "the campaign was deleted while it waited")
    books = tally(inst, release_id)
    assert (books.waiting, books.stopped) == (0, 150 if waiting.endswith("QUEUED") else 0)
    with inst.database.begin() as connection:
        assert mail_job_report(connection, release_id).books == books
    assert claim(inst) is None

    assert campaigns.delete(inst, "letter", now=now()).stopped == ()
    with pytest.raises(StateConflict, match="deleted"):
        campaigns.resume(inst, "letter")
    with pytest.raises(StateConflict, match="deleted"):
        campaigns.pause(inst, "letter")


@pytest.mark.rule("3.4")
def test_what_has_begun_goes_on_after_its_campaign_is_deleted(inst: Installation, folder: Path) -> None:
    begun, waits = released(inst, folder), released(inst, folder)
    assert claim(inst) is not None
    change = campaigns.delete(inst, "letter", now=now())
    assert (change.stopped, change.begun) == ((waits,), (begun,))
    assert claim(inst) is not None
    assert state(inst, begun)[0] is MailJobState.P_ASSIGNING

    # What is paused never goes on by being deleted.
    released(inst, folder, until="QUEUING")
    campaigns.pause(inst, "letter")
    with pytest.raises(StateConflict, match=str(begun)):
        campaigns.delete(inst, "letter", now=now())


@pytest.mark.rule("3.4")
def test_a_release_revives_a_deleted_campaign(inst: Installation, folder: Path) -> None:
    first = released(inst, folder, until="QUEUING")
    campaigns.delete(inst, "letter", now=now())
    second = released(inst, folder)
    assert state(inst, first)[0] is MailJobState.STOPPED
    assert state(inst, second)[0] is MailJobState.P_QUEUED
    [listed] = campaigns.list_campaigns(inst)
    assert (listed.state, listed.waiting, listed.begun) == (CampaignState.LIVE, 1, 0)
    assert listed.folder == "campaigns/letter"


@pytest.mark.rule("3.4")
def test_what_was_restarted_after_its_campaign_was_deleted_is_stopped_by_the_clean_up(
    inst: Installation, folder: Path
) -> None:
    release_id = released(inst, folder)
    execute(inst, "UPDATE mail_job SET state = 'STOPPED_Q'")
    campaigns.delete(inst, "letter", now=now())
    execute(inst, "UPDATE mail_job SET state = 'P_QUEUED'")
    assert claim(inst) is None
    assert clean_delivery_queue(inst, now=now()).stopped == [release_id]
    assert state(inst, release_id) == (MailJobState.STOPPED, "the campaign is deleted")


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
    to_resolve, to_assemble, to_queue = (released(inst, folder, until="QUEUING") for _ in range(3))
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


@pytest.mark.rule("3.4")
def test_deleting_waits_for_a_claim_that_is_being_made_and_leaves_it(
    inst: Installation, folder: Path, database_url: str
) -> None:
    release_id = released(inst, folder, until="QUEUED")
    with psycopg.connect(database_url, options="-c search_path=mail_orchestration") as claiming:
        claiming.execute(
            "UPDATE mail_job SET state = 'RUNNING', mailcaster = 'm1', heartbeat_at = now() "
            "WHERE mail_job_id = %s",
            [release_id],
        )
        deleting = threading.Thread(target=campaigns.delete, args=(inst, "letter"), kwargs={"now": now()})
        deleting.start()
        deleting.join(0.2)
        assert deleting.is_alive()
        claiming.commit()
        deleting.join()
    assert state(inst, release_id)[0] is MailJobState.RUNNING


@pytest.mark.rule("3.4")
def test_assembly_ends_when_its_campaign_is_deleted_meanwhile(
    inst: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.ASSEMBLY_BATCH", 20)
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.COMMIT_RECIPIENTS", 40)
    release_id = released(inst, folder, until="QUEUING")
    resolve_release(inst, release_id, now=now())

    def delete_it(done: int, total: int) -> None:
        if done == 40:
            campaigns.delete(inst, "letter", now=now())

    with pytest.raises(StateConflict, match="STOPPED"):
        assemble_release(inst, release_id, now=now(), progress=delete_it)
    books = tally(inst, release_id)
    assert (books.stopped, books.unassembled) == (40, 110)


def test_a_campaign_that_was_never_released_is_not_known(inst: Installation) -> None:
    for act in (campaigns.pause, campaigns.resume):
        with pytest.raises(NotFound, match="never released"):
            act(inst, "letters")
    with pytest.raises(NotFound, match="never released"):
        campaigns.delete(inst, "letters", now=now())


@pytest.mark.rule("11.3")
def test_the_commands(
    inst: Installation, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parents[1])
    release_id = released(inst, folder)
    said = {}
    for arguments in (["list"], ["pause", "letter"], ["resume", "letter"], ["delete", "letter"]):
        assert run(["campaign", *arguments]) == 0
        said[arguments[0]] = capsys.readouterr().out
    assert "live" in said["list"]
    assert "letter is paused" in said["pause"]
    assert "letter is live" in said["resume"]
    assert f"STOPPED, as they waited: mail jobs {release_id}" in said["delete"]
    assert run(["campaign", "resume", "letter", "--json"]) == 4
    assert run(["campaign", "pause", "nobody"]) == 2


def test_times_of_files_are_compared_with_this_hosts_clock() -> None:
    touched = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
    differs = edits.Difference(paths=("message.html.j2",), touched_at=touched)
    assert differs.edit(touched + timedelta(seconds=59)) is edits.Edit.UNDER_WAY
    assert differs.edit(touched + timedelta(seconds=60)) is edits.Edit.MADE
    assert edits.Difference(paths=(), touched_at=touched).edit(touched) is edits.Edit.NONE

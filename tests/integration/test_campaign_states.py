"""A campaign that is paused holds its mail jobs; one that is deleted makes what waits STOPPED."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest

from mail_orchestration import campaigns
from mail_orchestration.broadcast import (
    assemble_release,
    queue_release,
    resolve_release,
)
from mail_orchestration.cli.commands import run
from mail_orchestration.dispatch.campaigns import CampaignState
from mail_orchestration.feedback.reports import mail_job_report
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import NotFound, StateConflict
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import has_work
from mail_orchestration.maintenance import clean_delivery_queue
from tests.integration.waiting_releases import WAITING, folder, inst, released
from tests.scenarios.installations import claim, execute, now, state, tally, write_site

__all__ = ["folder", "inst"]


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
    begun, waits = released(inst, folder), released(inst, folder, again=True)
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
        with pytest.raises(NotFound, match="there is no campaign 'letters'"):
            act(inst, "letters")
    with pytest.raises(NotFound, match="there is no campaign 'letters'"):
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

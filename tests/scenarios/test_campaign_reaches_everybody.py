"""A campaign goes from its audience to a real relay, and the books balance at every step."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mail_orchestration.broadcast import (
    assemble_release,
    fill_audience,
    queue_release,
    release_campaign,
    releases_to_assemble,
    releases_to_queue,
    releases_to_report,
    report_release,
    resolve_release,
)
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.feedback.books import books
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import MailJobDone, has_work, run_shift
from tests.scenarios.installations import addresses, now, site_with_sink


@pytest.mark.rule("1.3")
@pytest.mark.rule("1.8")
@pytest.mark.rule("2.1")
@pytest.mark.rule("2.7")
@pytest.mark.rule("3.2")
@pytest.mark.rule("5.1")
def test_a_campaign_reaches_every_recipient_exactly_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailcaster = {"name": "m1", "min_job_size": 100, "max_job_size": 400, "connections": 30}
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        contacts=1000,
        mailcasters=[mailcaster],
    ) as (inst, sink):

        def balanced() -> None:
            with inst.database.begin() as connection:
                assert books(connection, release_id).balances

        assert fill_audience(inst, "everybody", now=now()).rows_accepted == 1000
        folder = tmp_path / "campaigns" / "letter"
        release = release_campaign(inst, folder, now=now(), request_key="once")
        release_id = release.release_id
        assert release_campaign(inst, folder, now=now(), request_key="once").release_id == release_id
        assert releases_to_assemble(inst) == [release_id]
        balanced()
        assert resolve_release(inst, release_id, now=now()).recipients == 1000
        balanced()
        assert assemble_release(inst, release_id, now=now()).messages == 1000
        assert assemble_release(inst, release_id, now=now()).already_done
        balanced()
        assert releases_to_assemble(inst) == []
        assert releases_to_queue(inst, now=now()) == [release_id]
        assert queue_release(inst, release_id, now=now()) is MailJobState.P_QUEUED
        assert queue_release(inst, release_id, now=now()) is MailJobState.P_QUEUED
        balanced()
        assert has_work(inst, "m1", now=now())

        done: list[MailJobDone] = []
        summary = run_shift(inst, "m1", stop=threading.Event(), on_mail_job_done=done.append)
        balanced()

        assert (summary.messages, summary.ended_because) == (1000, "no work")
        assert sum(each.accepted for each in done) == 1000
        assert {each.state for each in done} == {MailJobState.FINISHED}
        with inst.database.begin() as connection:
            assert mail_job(connection, release_id).state is MailJobState.P_FINISHED
            ranges = [(c.first_message, c.last_message) for c in children(connection, release_id)]
            tally = books(connection, release_id)
        assert [n for first, last in ranges for n in range(first, last + 1)] == list(range(1, 1001))
        assert (tally.assembled, tally.accepted, tally.waiting) == (1000, 1000, 0)
        assert releases_to_report(inst) == [release_id]
        assert report_release(inst, release_id, now=now()).books == tally
        assert releases_to_report(inst) == []

        assert sink.tally() == dict.fromkeys(addresses(1000), 1)
        for message in sink.messages():
            number = message["X-Rcpt-Args"].split("@")[0].removeprefix("<r")
            assert message["Subject"] == f"A letter to Reader {number}"
            assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
            text = message.get_body(("plain",))
            assert text is not None
            assert f"number {number}." in text.get_content()

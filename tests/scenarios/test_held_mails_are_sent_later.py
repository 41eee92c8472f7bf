"""A held mail is sent when the policy allows it, as it was frozen, whatever became of its campaign's folder since."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from mail_orchestration.broadcast import (
    assemble_release,
    queue_release,
    release_campaign,
    releases_to_assemble,
    releases_to_report,
    report_release,
    resolve_release,
)
from mail_orchestration.campaigns import stop_edited_and_deleted
from mail_orchestration.composition import edits
from mail_orchestration.frequency.queue import rescan
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from mail_orchestration.maintenance import clean_delivery_queue
from tests.scenarios.frequency_site import IN_THREE_DAYS, rewrite, site_that_holds
from tests.scenarios.installations import addresses, execute, now, state, tally

CONTACTS = 4


@pytest.mark.rule("8.4", "2.1", "3.4", "1.8", "6.6")
def test_it_is_assembled_delivered_and_reported_like_any_other(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edits, "SETTLES_AFTER", timedelta(0))
    with site_that_holds(tmp_path, database_url, monkeypatch, contacts=CONTACTS) as (inst, sink, held):
        assert tally(inst, held).held == CONTACTS
        folder = inst.settings.campaigns_dir / "letter"
        same = release_campaign(inst, folder, now=now()).release_id
        assert resolve_release(inst, same, now=now()).bypassed == {"duplicate": CONTACTS}
        assert rescan(inst, now=now()).released.later == []

        (later,) = rescan(inst, now=now() + IN_THREE_DAYS).released.later
        assert (later.held_from, later.mails) == (held, CONTACTS)
        assert releases_to_assemble(inst) == [later.mail_job_id]
        # What it would be a repeat of goes by the content, and not by the mail job.
        same = release_campaign(inst, folder, now=now()).release_id
        assert resolve_release(inst, same, now=now()).bypassed == {"duplicate": CONTACTS}
        release_campaign(inst, rewrite(inst, "third"), now=now())
        assert later.mail_job_id not in stop_edited_and_deleted(inst, now=now())
        assemble_release(inst, later.mail_job_id, now=now())
        assert queue_release(inst, later.mail_job_id, now=now()) is MailJobState.QUEUED
        run_shift(inst, "m1", stop=threading.Event())

        assert set(sink.tally()) == addresses(CONTACTS)
        assert all("second" in str(mail.get_body(("html",))) for mail in sink.messages())
        assert state(inst, later.mail_job_id)[0] is MailJobState.FINISHED
        assert later.mail_job_id in releases_to_report(inst)
        assert report_release(inst, later.mail_job_id, now=now()).books.accepted == CONTACTS
        family = tally(inst, held)
        assert (family.held, family.accepted, family.later_mail_jobs) == (0, CONTACTS, (later.mail_job_id,))


@pytest.mark.rule("8.4", "6.5", "1.8")
def test_the_clean_up_ends_the_wait_of_what_has_expired(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_that_holds(tmp_path, database_url, monkeypatch, contacts=CONTACTS) as (inst, sink, held):
        assert clean_delivery_queue(inst, now=now()).released.ended == {}
        execute(inst, "UPDATE held_mail SET expires_at = :at", at=now())
        assert clean_delivery_queue(inst, now=now()).released.ended == {"expired": CONTACTS}
        family = tally(inst, held)
        assert (family.held, family.expired) == (0, CONTACTS)
        assert not sink.tally()

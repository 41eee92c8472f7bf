"""The report of a mail job at rest is counted once, and once more when anything of it has changed (10.4)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.broadcast import assemble_release, queue_release
from mail_orchestration.dispatch.dead_letters import Chosen, delete_loose_mails
from mail_orchestration.dispatch.loose_mail_lists import list_loose_mails
from mail_orchestration.feedback import kept_reports
from mail_orchestration.feedback.kept_reports import (
    ReportAtOnce,
    counted_report,
    current_report,
    report_at_once,
)
from mail_orchestration.feedback.reports import MailJobReport, mail_job_report
from mail_orchestration.frequency.queue import rescan
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.loose_mail_states import LooseMailState
from tests.scenarios.frequency_site import IN_THREE_DAYS, site_that_holds
from tests.scenarios.installations import execute, now, released
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.retry_site import retry, send_mail_jobs, site, waiting

NEVER, LATER = "450-at-dot-4-2-1", "once-451-at-rcpt-4-7-1-a"


def current(inst: Installation, release_id: int, *, is_kept: bool = True) -> MailJobReport:
    """The report, which says what the rows say; asked again without a change it is that of before."""
    with inst.database.begin() as connection:
        report = current_report(connection, release_id)
        counted = mail_job_report(connection, release_id)
        again = current_report(connection, release_id)
    assert replace(report, counted_at=counted.counted_at) == counted
    assert (again.counted_at == report.counted_at) is is_kept
    return report


@pytest.mark.rule("10.4", "1.8")
def test_every_retry_makes_another_report(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[datetime] = []
    with (
        relay_beside() as server,
        site(tmp_path, server, database_url, monkeypatch, [NEVER, LATER, "r1"]) as inst,
    ):
        release_id = released(inst)
        assert current(inst, release_id).books.waiting == 3
        send_mail_jobs(inst, monkeypatch)
        seen.append(current(inst, release_id).counted_at)
        while LooseMailState.SCHEDULED in waiting(inst):
            retry(inst)
            report = current(inst, release_id)
            assert report.counted_at > seen[-1], "also where one that was deferred is deferred again"
            seen.append(report.counted_at)
        assert (report.books.accepted, report.books.deferred, report.books.resting) == (2, 1, 1)
        with inst.database.begin() as connection:
            (dead,) = list_loose_mails(connection, inst.installation_id)
            chosen = Chosen(loose_mail_ids=[dead.loose_mail_id])
            delete_loose_mails(connection, inst.installation_id, chosen, by="somebody", now=now())
        assert current(inst, release_id).books.resting == 0

        # While somebody works on it, its figures are behind its results.
        execute(inst, "UPDATE mail_job SET state = 'RUNNING', ended_at = NULL WHERE kind <> 'parent'")
        current(inst, release_id, is_kept=False)


@pytest.mark.rule("10.4")
def test_of_a_large_one_under_way_its_progress_is_told(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the report that was counted last, which says when; nothing of it is counted for that."""

    def at_once() -> ReportAtOnce:
        with inst.database.begin() as connection:
            return report_at_once(connection, release_id)

    monkeypatch.setattr(kept_reports, "COUNTED_AT_ONCE", 0)
    with (
        relay_beside() as server,
        site(tmp_path, server, database_url, monkeypatch, [LATER, "r1", "r2"]) as inst,
    ):
        release_id = released(inst)
        waiting_still = at_once()
        assert waiting_still.progress is None
        assert waiting_still.report is not None
        assert waiting_still.report.books.waiting == 3

        execute(
            inst,
            "UPDATE mail_job SET state = 'RUNNING', mailcaster = 'm', heartbeat_at = now(), accepted = 1 "
            "WHERE kind <> 'parent'",
        )
        under_way = at_once()
        assert under_way.report == waiting_still.report
        assert under_way.progress is not None
        assert (under_way.progress.messages, under_way.progress.accepted, under_way.progress.left) == (
            3,
            1,
            2,
        )
        with inst.database.begin() as connection:
            counted = counted_report(connection, release_id)
        assert at_once().report == counted, "what was counted under way is the last that was counted"
        assert at_once().progress is not None
        execute(
            inst,
            "UPDATE mail_job SET state = 'QUEUED', mailcaster = NULL, accepted = 0 WHERE kind <> 'parent'",
        )

        send_mail_jobs(inst, monkeypatch)
        after = at_once()
        assert after.progress is not None, "a retry waits"
        assert (after.progress.accepted, after.progress.deferred, after.progress.left) == (2, 1, 0)
        assert after.report == counted
        while LooseMailState.SCHEDULED in waiting(inst):
            retry(inst)
        ended = at_once()
        assert ended.progress is None
        assert ended.report is not None
        assert ended.report.books.accepted == 3


@pytest.mark.rule("10.4", "1.8")
def test_what_somebody_changed_by_hand_shows_when_it_is_counted_anew(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relay_beside() as server, site(tmp_path, server, database_url, monkeypatch, ["r1", "r2"]) as inst:
        release_id = released(inst)
        send_mail_jobs(inst, monkeypatch)
        current(inst, release_id)
        with inst.database.begin() as connection:
            connection.execute(text("DELETE FROM result WHERE message_no = 1"))
            assert current_report(connection, release_id).books.accepted == 2
            assert counted_report(connection, release_id).books.accepted == 1
            assert current_report(connection, release_id).books.accepted == 1
            # An older version may have written something else.
            connection.execute(text("UPDATE kept_report SET report = '{}'"))
            assert current_report(connection, release_id).books.accepted == 1


@pytest.mark.rule("10.4", "8.4")
def test_what_becomes_of_held_mails_makes_another_report(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_that_holds(tmp_path, database_url, monkeypatch, contacts=3) as (inst, _, held):
        assert current(inst, held).books.held == 3
        (later,) = rescan(inst, now=now() + IN_THREE_DAYS).released.later
        assert current(inst, held).books.unassembled == 3
        assemble_release(inst, later.mail_job_id, now=now())
        queue_release(inst, later.mail_job_id, now=now())
        assert current(inst, held).books.waiting == 3
        send_mail_jobs(inst, monkeypatch)
        assert current(inst, held).books.accepted == 3

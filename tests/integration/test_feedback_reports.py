"""The report of a mail job whose children had mixed luck, and its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from mail_orchestration.feedback.exports import export_report
from mail_orchestration.feedback.plots import timeline_plot
from mail_orchestration.feedback.reports import MailJobReport, mail_job_report
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.states import MailJobState
from tests.integration.feedback_fixtures import (
    NOON,
    a_result,
    add_installation,
    add_mail_job,
    add_release,
    add_results,
    in_seconds,
)

pytestmark = pytest.mark.rule("10.4")


@pytest.fixture
def report(database: Database) -> Iterator[MailJobReport]:
    installation_id = add_installation(database)
    release = add_release(
        database,
        installation_id,
        recipients=12,
        duplicates=2,
        messages=10,
        kind="parent",
        state="P_ASSIGNED",
        bypassed=[(11, "opted_out"), (12, "hard_bounce")],
    )
    one = add_mail_job(
        database,
        release.release_id,
        installation_id=installation_id,
        kind="child",
        state="RECOVERED",
        first=1,
        last=6,
    )
    two = add_mail_job(
        database,
        release.release_id,
        installation_id=installation_id,
        kind="child",
        state="FINISHED",
        first=1,
        last=6,
        recovers_id=one,
    )
    add_mail_job(
        database, release.release_id, installation_id=installation_id, kind="child", first=7, last=10
    )
    add_results(database, release, [a_result(no, at=in_seconds(no)) for no in (1, 2, 3)], one)
    later = [
        a_result(4, Outcome.REJECTED, at=in_seconds(100)),
        a_result(5, Outcome.REJECTED, at=in_seconds(101)),
        a_result(6, Outcome.DEFERRED, at=in_seconds(110), reply_text="=cmd|' /C calc'!A0"),
    ]
    add_results(database, release, later, two)
    with database.begin() as connection:
        yield mail_job_report(connection, release.release_id)


def test_the_books_are_in_it(report: MailJobReport) -> None:
    assert report.books.balances
    assert (report.books.accepted, report.books.rejected, report.books.deferred) == (3, 2, 1)
    assert [(line.reason, line.recipients) for line in report.bypasses] == [
        ("hard_bounce", 1),
        ("opted_out", 1),
    ]


def test_every_child_has_a_line(report: MailJobReport) -> None:
    recovered, finished, running = report.mail_jobs
    assert (recovered.state, recovered.accepted, recovered.seconds) == (MailJobState.RECOVERED, 3, 2.0)
    assert recovered.results_per_second == 1.5
    assert (finished.recovers, finished.rejected, finished.deferred) == (recovered.mail_job_id, 2, 1)
    assert (finished.first_message, finished.last_message, finished.seconds) == (1, 6, 10.0)
    assert (running.accepted, running.seconds, running.results_per_second) == (0, 0.0, None)


def test_domains_replies_and_the_course_of_time(report: MailJobReport) -> None:
    a, b = report.domains
    assert (a.domain, a.messages, a.accepted, a.rejected, a.deferred) == ("a.example", 7, 2, 2, 0)
    assert (b.domain, b.messages, b.accepted, b.rejected, b.deferred) == ("b.example", 3, 1, 0, 1)
    assert [(line.reply_code, line.enhanced_code, line.results, line.sample) for line in report.replies] == [
        (250, "2.0.0", 3, ""),
        (550, "5.1.1", 2, "‹address› no such user"),
        (451, "4.7.1", 1, "=cmd|' /C calc'!A0"),
    ]
    assert (report.first_result_at, report.last_result_at) == (in_seconds(1), in_seconds(110))
    assert report.messages_per_second == pytest.approx(6 / 109)
    assert report.bucket_seconds == 1
    assert [(bucket.starts_at, bucket.outcome, bucket.results) for bucket in report.timeline][:2] == [
        (in_seconds(1), Outcome.ACCEPTED, 1),
        (in_seconds(2), Outcome.ACCEPTED, 1),
    ]
    assert sum(bucket.results for bucket in report.timeline) == 6


def test_it_reads_well_and_names_nobody(report: MailJobReport) -> None:
    markdown = report.to_markdown()
    assert "14 audience rows − 2 duplicates = 12 recipients" in markdown
    assert "| a.example | 7 | 2 | 0 | 2 | 0 | 0 |" in markdown
    assert "### Mail jobs" in markdown
    assert "@" not in markdown
    assert "somebody" not in markdown


def test_it_is_exported_as_csv_and_parquet(report: MailJobReport, tmp_path: Path) -> None:
    files = export_report(report, tmp_path / "reports")
    tables = ["bypasses", "domains", "frequency", "later_mail_jobs", "mail_jobs", "replies", "timeline"]
    stem = f"mail_job_{report.release_id}_"
    assert sorted(file.name for file in files) == sorted(
        f"{stem}{table}.{kind}" for table in tables for kind in ("csv", "parquet")
    )
    replies = (tmp_path / "reports" / f"{stem}replies.csv").read_bytes().decode()
    assert "\r\ndeferred,451,4.7.1,1,'=cmd|' /C calc'!A0\r\n" in replies
    frame = pd.read_parquet(tmp_path / "reports" / f"{stem}replies.parquet")
    assert list(frame["sample"]) == ["", "‹address› no such user", "=cmd|' /C calc'!A0"]
    mail_jobs = pd.read_parquet(tmp_path / "reports" / f"{stem}mail_jobs.parquet")
    assert list(mail_jobs["accepted"]) == [3, 0, 0]


def test_it_has_a_picture(report: MailJobReport) -> None:
    assert len(timeline_plot(report.timeline, report.bucket_seconds)) > 5000


def test_a_mail_job_without_any_result_has_a_report_too(database: Database, tmp_path: Path) -> None:
    release = add_release(database, add_installation(database), recipients=2, messages=2)
    with database.begin() as connection:
        report = mail_job_report(connection, release.release_id)
    assert report.messages_per_second is None
    assert report.first_result_at is None
    assert report.released_at == NOON
    assert report.to_markdown()
    assert len(export_report(report, tmp_path)) == 14
    with pytest.raises(NotFound), database.begin() as connection:
        mail_job_report(connection, 99)

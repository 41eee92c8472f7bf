"""What `report` says of a large mail job under way: how far it is, and of when the rest is (10.4)."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from mail_orchestration.cli.report_commands import show_progress
from mail_orchestration.feedback.progress import Progress, ProgressLine
from mail_orchestration.kernel.states import MailJobState

CHILD = ProgressLine(
    mail_job_id=18,
    recovers=None,
    state=MailJobState.RUNNING,
    mailcaster="big",
    first_message=1,
    last_message=10_000,
    accepted=4_000,
    deferred=30,
    rejected=20,
    uncertain=1,
    stopped=0,
)
PROGRESS = Progress(
    release_id=17,
    campaign="spring",
    state=MailJobState.P_ASSIGNING,
    reason="",
    read_at=datetime(2026, 11, 22, 12, 3, 7, tzinfo=UTC),
    messages=1_000_000,
    accepted=4_000,
    deferred=30,
    rejected=20,
    uncertain=1,
    stopped=0,
    left=995_949,
    mail_jobs=[CHILD],
)


@pytest.mark.rule("10.4")
@pytest.mark.parametrize(
    ("has_report", "rest"),
    [(True, "Below is the report as its rows were counted last."), (False, "which nobody has done yet.")],
)
def test_figures_add_up_and_every_part_says_of_when_it_is(has_report: bool, rest: str) -> None:
    out = StringIO()
    show_progress(Console(file=out, width=160), PROGRESS, has_report=has_report)
    said = out.getvalue()
    assert "spring, mail job 17: P_ASSIGNING" in said
    assert "as mailcasters have noted up to 2026-11-22 12:03:07" in said
    assert (
        "1,000,000 messages = 4,000 accepted + 30 deferred + 20 rejected + 1 uncertain + 0 stopped"
        " + 995,949 waiting, being sent or expired" in said
    )
    assert rest in said
    assert "`mail-orchestration report 17 --recount` counts them now." in said

"""Whatever results a message has had: it counts once, by its last one, in the books, the report and everywhere else."""

from __future__ import annotations

from collections import Counter
from itertools import count
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mail_orchestration.feedback.books import books
from mail_orchestration.feedback.daily_counts import close_day
from mail_orchestration.feedback.reports import mail_job_report
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.days import day_bounds
from tests.integration.feedback_fixtures import (
    DAY,
    a_result,
    add_installation,
    add_mail_job,
    add_release,
    add_results,
    execute,
    in_seconds,
)

pytestmark = [pytest.mark.rule("1.8"), pytest.mark.rule("5.7"), pytest.mark.rule("8.2")]

MESSAGES = 8
UTC = ZoneInfo("UTC")
EXAMPLES = count(1)
FINAL = [Outcome.ACCEPTED, Outcome.REJECTED, Outcome.STOPPED, Outcome.EXPIRED]
OPEN = [Outcome.UNCERTAIN, Outcome.DEFERRED]
HISTORIES = st.builds(
    lambda tried, ended: [*tried, *ended],
    st.lists(st.sampled_from(OPEN), max_size=4),
    st.lists(st.sampled_from(FINAL), max_size=1),
)
"""Of one message: tried some times, and then ended or not (yet)."""


def _rows(number: int, history: list[Outcome], example: int) -> list[DeliveryResult]:
    return [
        a_result(
            number,
            outcome,
            at=in_seconds(10 * number + no),
            contact_id=example * MESSAGES + number,
            result_no=no,
            supersedes=None if no == 1 else history[no - 2],
        )
        for no, outcome in enumerate(history, start=1)
    ]


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    histories=st.lists(HISTORIES, min_size=MESSAGES, max_size=MESSAGES),
    recovered_after=st.lists(st.integers(0, 4), min_size=MESSAGES, max_size=MESSAGES),
)
def test_each_message_counts_once_by_its_last_result(
    database: Database, histories: list[list[Outcome]], recovered_after: list[int]
) -> None:
    example = next(EXAMPLES)
    installation_id = add_installation(database, f"installation {example}")
    release = add_release(
        database, installation_id, recipients=MESSAGES, messages=MESSAGES, state="RECOVERED"
    )
    new = add_mail_job(
        database,
        release.release_id,
        installation_id=installation_id,
        last=MESSAGES,
        recovers_id=release.release_id,
    )
    ends: dict[int, Counter[Outcome]] = {release.release_id: Counter(), new: Counter()}
    recorded: Counter[int] = Counter()
    for number, (history, first_ones) in enumerate(zip(histories, recovered_after, strict=True), start=1):
        rows = _rows(number, history, example)
        for mail_job_id, part in ((release.release_id, rows[:first_ones]), (new, rows[first_ones:])):
            if part:
                add_results(database, release, part, mail_job_id)
            recorded[mail_job_id] += len(part)
        if history:
            ends[new if len(history) > first_ones else release.release_id][history[-1]] += 1

    total = ends[new] + ends[release.release_id]
    with database.begin() as connection:
        counted = books(connection, release.release_id)
        report = mail_job_report(connection, release.release_id)
    assert counted.balances, counted.explanation
    assert {outcome: getattr(counted, outcome) for outcome in Outcome} == {o: total[o] for o in Outcome}
    assert counted.sending == sum(not history for history in histories)

    for line in report.mail_jobs:
        assert line.results == recorded[line.mail_job_id]
        found = ends[line.mail_job_id]
        assert (line.accepted, line.deferred, line.rejected, line.uncertain) == tuple(
            found[outcome] for outcome in list(Outcome)[:4]
        )
        assert line.others == found[Outcome.STOPPED] + found[Outcome.EXPIRED]
    assert sum(domain.messages for domain in report.domains) == MESSAGES
    assert sum(domain.uncertain for domain in report.domains) == total[Outcome.UNCERTAIN]
    assert sum(domain.accepted for domain in report.domains) == total[Outcome.ACCEPTED]

    uncertain = execute(
        database,
        "SELECT message_no FROM uncertain_message WHERE release_id = :id ORDER BY 1",
        id=release.release_id,
    )
    assert [number for (number,) in uncertain] == [
        number
        for number, history in enumerate(histories, start=1)
        if history and history[-1] is Outcome.UNCERTAIN
    ]
    closed = close_day(database, installation_id, DAY, UTC, day_bounds(DAY, UTC)[1])
    assert closed.mails == sum(
        Outcome.ACCEPTED in history or Outcome.UNCERTAIN in history for history in histories
    )

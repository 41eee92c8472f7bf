"""The relay drops the connection after the final dot: with `on_uncertain: resend` the very same is sent again."""

from __future__ import annotations

import re
import signal
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.mail_jobs import mail_job
from mail_orchestration.feedback.daily_counts import close_day
from mail_orchestration.feedback.reports import mail_job_report
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from tests.scenarios.installations import (
    address_of,
    hours_pass,
    now,
    released,
    start_mailcaster,
    state,
    tally,
)
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.uncertain_site import ALWAYS, CONNECTIONS, ONCE, ordinary, site_of

pytestmark = pytest.mark.rule("5.7")


@pytest.mark.rule("1.8")
@pytest.mark.rule("2.4")
@pytest.mark.rule("8.2")
def test_resend_sends_the_very_same_again_and_stops_after_the_most_attempts(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = [*ONCE, *ordinary(40), *ALWAYS]
    with (
        relay_beside() as server,
        site_of(
            tmp_path, server, database_url, monkeypatch, contacts=who, dispatcher={"max_attempts": 3}
        ) as inst,
    ):
        release_id = released(inst)
        summary = run_shift(inst, "m1", stop=threading.Event())
        assert state(inst, release_id)[0] is MailJobState.FINISHED
        found = tally(inst, release_id)
        assert (found.accepted, found.uncertain) == (46, 3)
        assert summary.messages == 49
        assert server.accepted == {address_of(local): 1 for local in [*ONCE, *ordinary(40)]}
        assert {len(server.received[address_of(local)]) for local in ONCE} == {2}
        assert {len(server.received[address_of(local)]) for local in ALWAYS} == {3}
        for address, copies in server.received.items():
            assert len(set(copies)) == 1, "byte for byte the same"
            assert address.encode() in copies[0], "of all in a block his own"
            assert re.search(rb"(?im)^message-id: <\S+>\r$", copies[0])

        with inst.database.begin() as connection:
            shown, report = mail_job(connection, release_id), mail_job_report(connection, release_id)
        assert (shown.accepted, shown.uncertain, shown.sent) == (46, 3, 49)
        (line,) = report.mail_jobs
        assert (line.results, line.accepted, line.uncertain) == (40 + 2 * 6 + 3 * 3, 46, 3)
        tomorrow = now() + timedelta(days=1)
        closed = close_day(inst.database, inst.installation_id, now().date(), inst.settings.zone, tomorrow)
        assert (closed.mails, closed.contacts) == (49, 49), "nobody is counted twice"


@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
@pytest.mark.parametrize("crash_at", ["after_final_dot", "result_recorded"])
def test_what_a_killed_mailcaster_left_uncertain_is_sent_again_by_the_next(
    crash_at: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = [*ordinary(40), *ONCE]
    with (
        relay_beside() as server,
        site_of(tmp_path, server, database_url, monkeypatch, contacts=who) as inst,
    ):
        release_id = released(inst)
        with monkeypatch.context() as patch:
            # With the second of those that are sent again.
            patch.setenv("CRASH_AT", f"{crash_at}:48")
            process = start_mailcaster(inst)
        assert process.wait() == -signal.SIGKILL
        before = tally(inst, release_id)
        assert before.accepted + before.uncertain == 46
        assert 0 < before.uncertain <= 6
        hours_pass(inst, 3)
        run_shift(inst, "m1", stop=threading.Event())

        found = tally(inst, release_id)
        assert (found.accepted, found.uncertain) == (46, 0)
        assert set(server.accepted) == {address_of(local) for local in who}
        assert server.accepted.total() - 46 <= CONNECTIONS
        assert all(len(set(copies)) == 1 for copies in server.received.values())
        with inst.database.begin() as connection:
            numbers = connection.execute(
                text("SELECT mail_job_id, state, accepted, uncertain FROM mail_job ORDER BY mail_job_id")
            ).all()
        (old, old_state, *_), (new, new_state, *_) = numbers
        assert (old_state, new_state) == ("RECOVERED", "FINISHED")
        assert [sum(each[column] for each in numbers) for column in (2, 3)] == [46, 0]
        with inst.database.begin() as connection:
            assert mail_job(connection, new).uncertain == 0
            report = mail_job_report(connection, release_id)
        assert [line.mail_job_id for line in report.mail_jobs] == [old, new]
        assert sum(line.accepted for line in report.mail_jobs) == 46
        assert {line.uncertain for line in report.mail_jobs} == {0}

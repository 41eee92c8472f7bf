"""A campaign's expiry comes in mid-run: nothing more of it is sent, and what was not sent is counted as expired."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.mail_jobs import mail_job
from mail_orchestration.feedback.books import books
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from tests.scenarios.installations import now, released, site_with_sink
from tests.scenarios.relays.postfix_sink import A_SECOND_EACH

CONTACTS = 80
CONNECTIONS = 4


@pytest.mark.rule("3.6")
@pytest.mark.parametrize("seconds_left", [5.0, -1.0], ids=["in mid-run", "before the first"])
def test_nothing_is_sent_after_it(
    seconds_left: float, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each connection sends a message in a second.
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        sink_options=A_SECOND_EACH,
        contacts=CONTACTS,
        mailcasters=[{"name": "m1", "connections": CONNECTIONS}],
    ) as (inst, sink):
        release_id = released(inst)
        with inst.database.begin() as connection:
            expires_at = now() + timedelta(seconds=seconds_left)
            connection.execute(text("UPDATE release SET expires_at = :at"), {"at": expires_at})

        summary = run_shift(inst, "m1", stop=threading.Event())

        with inst.database.begin() as connection:
            assert mail_job(connection, release_id).state is MailJobState.FINISHED
            tally = books(connection, release_id)
            late = connection.execute(
                text("SELECT count(*) FROM result WHERE outcome = 'accepted' AND occurred_at > :late"),
                # One that was begun just before it ends a second later, and is looked for now and then.
                {"late": expires_at + timedelta(seconds=5)},
            ).scalar_one()
        assert summary.messages == CONTACTS
        assert (tally.balances, tally.accepted + tally.expired) == (True, CONTACTS)
        assert late == 0
        assert tally.accepted == sum(sink.tally().values())
        assert (tally.accepted > 0) == (seconds_left > 0)
        assert tally.expired > CONTACTS // 2

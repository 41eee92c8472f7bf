"""The relay is down, its settings are wrong, or a message cannot be read: the reason is said and nothing is lost."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from sqlalchemy import text

from mail_orchestration.cli.services import free_port
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.dispatch.shifts import shifts
from mail_orchestration.feedback.books import books
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import MailJobDone, run_shift
from tests.scenarios.installations import opened, released, site_with_sink, write_site

MAILCASTER = {"name": "m1", "min_job_size": 50, "max_job_size": 100, "small_audience_threshold": 50}


def _change_relay(settings: Path, changes: Mapping[str, object]) -> None:
    document = yaml.safe_load(settings.read_text(encoding="utf-8"))
    document["relays"][0].update(changes)
    settings.write_text(yaml.safe_dump(document), encoding="utf-8")


@pytest.mark.rule("3.7")
def test_a_relay_that_is_down_fails_the_mail_jobs_and_keeps_their_messages(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = write_site(
        tmp_path,
        relay_port=free_port(),
        contacts=150,
        mailcasters=[MAILCASTER],
        dispatcher={"relay_unreachable_after_seconds": 0.5},
    )
    with opened(settings, database_url, monkeypatch) as inst:
        release_id = released(inst)
        done: list[MailJobDone] = []
        run_shift(inst, "m1", stop=threading.Event(), on_mail_job_done=done.append)
        with inst.database.begin() as connection:
            parent, tally = mail_job(connection, release_id), books(connection, release_id)
            failed = children(connection, release_id)
    reason = "no relay could be reached for 0.5 s (sink: cannot connect: "
    assert parent.state is MailJobState.P_FAILED
    assert {each.state for each in failed} == {MailJobState.FAILED}
    assert all(
        why.startswith(reason) for why in [*(each.reason for each in failed), *(each.reason for each in done)]
    )
    assert sum(each.message_count for each in failed) == 150
    assert (tally.balances, tally.waiting, tally.accepted) == (True, 150, 0)


@pytest.mark.rule("3.7")
@pytest.mark.rule("5.6")
def test_a_relay_whose_certificates_are_missing_is_said_before_a_mail_job_is_taken(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = write_site(tmp_path, relay_port=free_port(), contacts=5, mailcasters=[MAILCASTER])
    _change_relay(settings, {"tls": "starttls", "ca_file": "gone.pem"})
    with opened(settings, database_url, monkeypatch) as inst:
        release_id = released(inst)
        with pytest.raises(BadSettings, match="relay 'sink': ca_file holds no certificates"):
            run_shift(inst, "m1", stop=threading.Event())
        with inst.database.begin() as connection:
            assert mail_job(connection, release_id).state is MailJobState.QUEUED


@pytest.mark.rule("2.7")
@pytest.mark.rule("3.7")
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            # Where a block begins depends on how fast assembly was.
            "UPDATE message_block AS b SET block = overlay(b.block PLACING '\\x00ff' FROM 40) "
            "FROM assembled_message AS m "
            "WHERE m.message_no = 100 AND b.release_id = m.release_id "
            "AND b.first_message = m.message_no - m.place_in_block",
            # Of the messages of that block, the first that a mail job has.
            r"message \d+ cannot be read as it is stored",
        ),
        ("UPDATE release SET files = files - 'campaign.yaml'", r"campaign\.yaml"),
    ],
    ids=["a message", "the frozen campaign"],
)
def test_what_cannot_be_read_fails_its_mail_job_and_no_other(
    damage: str, reason: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        contacts=150,
        mailcasters=[MAILCASTER],
    ) as (inst, _):
        release_id = released(inst)
        with inst.database.begin() as connection:
            connection.execute(text(damage))
        second = released(inst, again=True)
        summary = run_shift(inst, "m1", stop=threading.Event())
        with inst.database.begin() as connection:
            failed = [each for each in children(connection, release_id) if each.state is MailJobState.FAILED]
            assert mail_job(connection, second).state is MailJobState.P_FINISHED
            tally = books(connection, release_id)
            assert all(each.ended_at is not None for each in shifts(connection, inst.installation_id))
    assert summary.ended_because == "no work"
    assert failed
    assert all(re.search(reason, each.reason) for each in failed)
    assert tally.balances
    assert tally.waiting + tally.accepted == 150
    assert tally.waiting >= 1
    assert "example.net" not in "".join(each.reason for each in failed)


@pytest.mark.rule("3.7")
@pytest.mark.rule("6.4")
def test_a_mail_job_that_fails_counts_what_its_connections_had_under_way(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        contacts=75,
        mailcasters=[{**MAILCASTER, "connections": 1}],
        # Without PIPELINING the envelope is made behind the reply before it, whose result is being written then.
        sink_options=["-p"],
    ) as (inst, _):
        release_id = released(inst)
        with inst.database.begin() as connection:
            connection.execute(
                text(
                    "UPDATE message_block AS b SET block = 'no block' FROM assembled_message AS m"
                    " WHERE m.message_no = 75 AND b.release_id = m.release_id"
                    " AND b.first_message = m.message_no - m.place_in_block"
                )
            )
            # Slow to write: when the message is come to, results of others are on their way to the disk.
            connection.exec_driver_sql(
                "CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS"
                " $$BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END$$"
            )
            connection.exec_driver_sql(
                "CREATE TRIGGER slow AFTER INSERT ON result FOR EACH STATEMENT EXECUTE FUNCTION be_slow()"
            )
        done: list[MailJobDone] = []
        run_shift(inst, "m1", stop=threading.Event(), on_mail_job_done=done.append)
        with inst.database.begin() as connection:
            recorded = connection.exec_driver_sql("SELECT count(*) FROM result").scalar_one()
            shown = connection.exec_driver_sql(
                "SELECT accepted FROM mail_job WHERE state IN ('FAILED', 'P_FAILED') AND ended_at IS NOT NULL"
            ).scalars()
            assert books(connection, release_id).accepted == recorded
            assert set(shown) == {recorded}
    assert [each.state for each in done] == [MailJobState.FAILED]
    assert recorded > 0
    assert done[0].accepted == done[0].results == recorded

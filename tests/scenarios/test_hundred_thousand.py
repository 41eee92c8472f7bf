"""A release to 100,000 through Dagster's jobs: every recipient gets it exactly once, and every message parses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import text

from assets.mail_system import MailSystem
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.feedback.books import books
from mail_orchestration.kernel.states import MailJobState
from schedules.definitions import defs
from tests.scenarios.installations import addresses, use_database, write_site
from tests.scenarios.relays.postfix_sink import storing_sink

CONTACTS = 100_000


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
@pytest.mark.timeout(1800)
@pytest.mark.rule("1.3")
@pytest.mark.rule("1.8")
@pytest.mark.rule("2.4")
@pytest.mark.rule("4.4")
@pytest.mark.rule("5.1")
@pytest.mark.rule("11.1")
def test_everybody_is_found_exactly_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storing_sink() as sink, dg.DagsterInstance.ephemeral() as instance:
        settings = write_site(
            tmp_path,
            relay_port=sink.port,
            contacts=CONTACTS,
            mailcasters=[{"name": "m1", "connections": 60}],
        )
        use_database(database_url, monkeypatch)
        mail = MailSystem(settings)

        def run(job: str, key: str | None = None, ops: dict[str, object] | None = None) -> None:
            result = defs.resolve_job_def(job).execute_in_process(
                instance=instance,
                partition_key=key,
                run_config={"ops": ops} if ops else None,
                resources={"mail": mail},
            )
            assert result.success

        run("import_audiences")
        run("release_campaign", ops={"release_folder": {"config": {"campaign": "letter"}}})
        (key,) = instance.get_dynamic_partitions("mail_jobs")
        run("assemble", key)
        run("queue_for_delivery", key)
        run("mailcaster", ops={"work_a_shift": {"config": {"mailcaster": "m1"}}})

        with mail.opened("test") as inst, inst.database.begin() as connection:
            parent = mail_job(connection, int(key))
            assert parent.state is MailJobState.P_FINISHED
            parts = children(connection, parent.mail_job_id)
            assert parts[-1].last_message == CONTACTS
            assert [part.first_message for part in parts] == [
                1,
                *(part.last_message + 1 for part in parts[:-1] if part.last_message),
            ]
            found = books(connection, parent.mail_job_id)
            assert found.balances
            assert found.accepted == CONTACTS
            results = connection.execute(
                text("SELECT count(*), count(DISTINCT message_no) FROM result")
            ).one()
            assert tuple(results) == (CONTACTS, CONTACTS)

        told = instance.get_materialized_partitions(dg.AssetKey("delivery_results"))
        assert told == {str(child.mail_job_id) for child in parts}

        recipients: Counter[str] = Counter()
        message_ids: set[str] = set()
        for message in sink.plain_messages():
            assert not any(part.defects for part in message.walk())
            recipients[message["X-Rcpt-Args"].strip("<>")] += 1
            message_ids.add(message["Message-ID"])
            number = message["Subject"].removeprefix("A letter to Reader ")
            (html,) = (part for part in message.walk() if part.get_content_type() == "text/html")
            body = html.get_payload(decode=True)
            assert isinstance(body, bytes)
            assert f"number {number}." in body.decode(html.get_content_charset() or "")
            assert message["X-Rcpt-Args"] == f"<r{number}@example.net>"
        assert recipients == dict.fromkeys(addresses(CONTACTS), 1)
        assert len(message_ids) == CONTACTS

"""An opt-out that comes while a slow relay takes the mail job: it is honoured by all that was not read already."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.egress import parking
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.limit_settings import DomainSettings, LimitSettings
from mail_orchestration.mailcaster import message_feed, run_shift
from tests.scenarios.installations import released, site_with_sink, tally, wait_for_results
from tests.scenarios.relays.postfix_sink import A_SECOND_EACH
from tests.scenarios.shift_under_way import shift_under_way

CONTACTS = 48
CONNECTIONS = 8


def opt_out(inst: Installation, *, after: int) -> int:
    """Those whose messages come after this one do; how many."""
    with inst.database.begin() as connection:
        return connection.execute(
            text(
                "INSERT INTO suppression (contact_id, reason)"
                " SELECT contact_id, 'opted_out' FROM assembled_message WHERE message_no > :after"
            ),
            {"after": after},
        ).rowcount


@pytest.mark.rule("1.5")
def test_a_slow_relay_is_fed_in_small_batches(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_feed, "FIRST_BATCH", 24)
    monkeypatch.setattr(message_feed, "BATCH_LASTS_S", 0.5)
    # Eight connections, each sends a message in a second.
    with shift_under_way(
        tmp_path,
        database_url,
        monkeypatch,
        sink_options=A_SECOND_EACH,
        contacts=CONTACTS,
        connections=CONNECTIONS,
    ) as at_work:
        late = opt_out(at_work.inst, after=40)
        assert at_work.shift.result(timeout=60).messages == CONTACTS
        found = tally(at_work.inst, at_work.release_id)
    assert (found.accepted, found.stopped) == (CONTACTS - late, late)


@pytest.mark.rule("1.5")
@pytest.mark.rule("6.7")
def test_who_waits_for_a_domains_limit_is_asked_about_again(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contacts, kept = 24, 12
    monkeypatch.setattr(parking, "STALE_AFTER_S", 0.0)
    with (
        site_with_sink(
            tmp_path,
            database_url,
            monkeypatch,
            contacts=contacts,
            mailcasters=[{"name": "m1", "connections": 2}],
        ) as (inst, sink),
        ThreadPoolExecutor(1) as executor,
    ):
        limits = DomainSettings(name="example.net", limits=LimitSettings(per_minute=480))
        inst = replace(inst, settings=inst.settings.model_copy(update={"domains": (limits,)}))
        release_id = released(inst)
        shift = executor.submit(run_shift, inst, "m1", stop=threading.Event())
        wait_for_results(inst, 1)
        opt_out(inst, after=kept)
        assert shift.result(timeout=60).messages == contacts
        found = tally(inst, release_id)
        assert sum(sink.tally().values()) == kept
    assert (found.accepted, found.stopped) == (kept, contacts - kept)

"""Three campaigns at the same moment to the same people, two mailcasters killed with -9: never more than allowed."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from sqlalchemy import text

from mail_orchestration.broadcast import (
    assemble_release,
    fill_audience,
    queue_release,
    release_campaign,
    releases_to_assemble,
    resolve_release,
)
from mail_orchestration.installation import Installation
from mail_orchestration.mailcaster import run_shift
from mail_orchestration.maintenance import close_days
from tests.scenarios.installations import (
    HTML,
    addresses,
    hours_pass,
    now,
    site_whose_relay_falls_silent,
    start_mailcaster,
)
from tests.scenarios.relays.beside import wait_until_unanswered

CONTACTS = 300
CONNECTIONS = 5
ALLOWED = 2
CAMPAIGNS = ("letter", "offer", "news")
FREQUENCY = {"enabled": True, "rules": [{"max_mails": ALLOWED, "days": 7}]}


def made(inst: Installation, name: str) -> int:
    """A release of another campaign that says something of its own to the same people."""
    folder = inst.settings.campaigns_dir / name
    if not folder.exists():
        folder.mkdir()
        definition = yaml.safe_load((inst.settings.campaigns_dir / "letter" / "campaign.yaml").read_text())
        (folder / "campaign.yaml").write_text(yaml.safe_dump({**definition, "name": name}))
        (folder / "message.html.j2").write_text(HTML.replace("number", f"{name} number", 1))
    return release_campaign(inst, folder, now=now()).release_id


def in_all(inst: Installation, what: str) -> int:
    with inst.database.begin() as connection:
        return int(connection.scalar(text(f"SELECT coalesce({what}, 0)")) or 0)


@pytest.mark.rule("8.8", "8.2")
def test_nobody_gets_more_than_the_rules_allow_and_nobody_is_forgotten(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailcasters = [
        {"name": name, "min_job_size": 100, "max_job_size": 150, "connections": CONNECTIONS}
        for name in ("m1", "m2")
    ]
    with site_whose_relay_falls_silent(
        tmp_path,
        database_url,
        monkeypatch,
        after=60,
        contacts=CONTACTS,
        mailcasters=mailcasters,
        frequency=FREQUENCY,
    ) as (inst, relay):
        fill_audience(inst, "everybody", now=now())
        release_ids = [made(inst, name) for name in CAMPAIGNS]
        with ThreadPoolExecutor(len(CAMPAIGNS)) as pool:
            resolved = list(pool.map(lambda number: resolve_release(inst, number, now=now()), release_ids))
        assert sum(each.to_assemble for each in resolved) == ALLOWED * CONTACTS
        assert sum(each.bypassed.get("held", 0) for each in resolved) == CONTACTS
        carry_on(inst)
        killed = [start_mailcaster(inst, name) for name in ("m1", "m2")]
        wait_until_unanswered(relay, 2 * CONNECTIONS)
        for process in killed:
            process.kill()
            process.wait()
        relay.script.falls_silent_after = None
        hours_pass(inst, 3)
        deliver(inst)

        got = Counter(relay.accepted)
        assert set(got) == addresses(CONTACTS)
        assert min(got.values()) == ALLOWED
        assert got.total() - ALLOWED * CONTACTS <= 2 * CONNECTIONS, "only what was in flight is repeated"
        # The next night every place has become a mail of the log, and the third campaign still waits.
        close_days(inst, now=now() + timedelta(days=1))
        assert in_all(inst, "(SELECT sum(places) FROM frequency_counter)") == 0
        assert in_all(inst, "(SELECT sum(mails) FROM daily_mail_count)") == ALLOWED * CONTACTS
        assert in_all(inst, "(SELECT count(*) FROM held_mail)") == CONTACTS
        assert releases_to_assemble(inst) == []


def carry_on(inst: Installation) -> None:
    """What Dagster's sensors do with releases that are resolved."""
    for release_id in releases_to_assemble(inst):
        assemble_release(inst, release_id, now=now())
        queue_release(inst, release_id, now=now())


def deliver(inst: Installation) -> None:
    """Both come again, and take what the dead have left."""
    for name in ("m1", "m2"):
        run_shift(inst, name, stop=threading.Event())

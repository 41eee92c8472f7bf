"""A dry run goes through dedup and assembly as a release does, and nothing of it is ever sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from sqlalchemy import text

from mail_orchestration.audience.csv_source import CsvSource
from mail_orchestration.broadcast import (
    dry_run,
    fill_audience,
    queue_release,
    release,
    release_campaign,
    releases_to_assemble,
    releases_to_queue,
    releases_to_report,
)
from mail_orchestration.cli.commands import run
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import has_work
from mail_orchestration.maintenance import clean_delivery_queue
from tests.scenarios.installations import opened, state, write_site

NOW = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def inst(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """240 contacts in two audiences, 40 of them in both, 30 of them suppressed."""
    settings = write_site(
        tmp_path, relay_port=9, contacts=200, campaign={"audiences": ["everybody", "others"]}
    )
    (tmp_path / "others.csv").write_text(
        "email,name,number\n"
        + "".join(f"r{n}@example.net,Reader {n},{n}\n" for n in range(161, 201))
        + "".join(f"o{n}@other.example,Other {n},{n}\n" for n in range(1, 41))
    )
    with opened(settings, database_url, monkeypatch) as opened_installation:
        fill_audience(opened_installation, "everybody", now=NOW)
        others = CsvSource(path=tmp_path / "others.csv")
        fill_audience(opened_installation, "others", source=others, now=NOW)
        with opened_installation.database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO suppression (contact_id, reason) SELECT contact_id, 'hard_bounce' FROM contact "
                    "WHERE address LIKE 'r%' ORDER BY contact_id LIMIT 30"
                )
            )
        yield opened_installation


def letter(inst: Installation) -> Path:
    return inst.settings.folder / "campaigns" / "letter"


def edited(inst: Installation, **changes: object) -> None:
    file = letter(inst) / "campaign.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes), encoding="utf-8")


def test_a_dry_run_tells_what_a_release_would_come_to_and_queues_nothing(inst: Installation) -> None:
    # That a campaign starts later is no reason not to try it out now.
    edited(inst, starts_at=(NOW + timedelta(days=3)).isoformat())
    found = dry_run(inst, letter(inst), now=NOW)
    assert (found.books.audience_rows, found.books.duplicates, found.books.recipients) == (280, 40, 240)
    assert found.books.bypassed == {"hard_bounce": 30}
    assert found.messages == 210
    assert found.domains == {"example.net": 170, "other.example": 40}
    assert found.assembled is not None
    assert found.assembled.messages == 210
    assert state(inst, found.mail_job_id) == (MailJobState.STOPPED, "dry run: nothing was sent")
    assert queue_release(inst, found.mail_job_id, now=NOW) is MailJobState.STOPPED
    assert not has_work(inst, "m1")


def test_a_dry_run_leaves_what_waits_alone_and_no_sensor_takes_it(inst: Installation) -> None:
    waiting = release_campaign(inst, letter(inst), now=NOW).release_id
    edited(inst, subject="Quite another subject")
    tried = release_campaign(inst, letter(inst), now=NOW, dry_run=True).release_id
    assert release(inst, waiting).state is MailJobState.QUEUING
    assert releases_to_assemble(inst) == [waiting]
    assert dry_run(inst, letter(inst), now=NOW).messages == 210
    assert release(inst, waiting).state is MailJobState.QUEUING
    assert tried not in releases_to_queue(inst)
    assert releases_to_report(inst) == []


def test_a_dry_run_that_was_cut_off_is_stopped_by_the_clean_up(inst: Installation) -> None:
    tried = release_campaign(inst, letter(inst), now=NOW, dry_run=True).release_id
    clean_delivery_queue(inst, now=NOW + timedelta(hours=23))
    assert state(inst, tried)[0] is MailJobState.QUEUING
    clean_delivery_queue(inst, now=NOW + timedelta(hours=25))
    assert state(inst, tried) == (MailJobState.STOPPED, "a dry run that was cut off")


def test_the_command_shows_it_and_says_when_nobody_would_get_it(
    inst: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAIL_ORCHESTRATION_SETTINGS", str(inst.settings.folder / "mail_orchestration.yaml"))
    assert run(["dry-run", "letter", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["messages"], said["duplicates"]) == (210, 40)
    with inst.database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO suppression (contact_id, reason) SELECT contact_id, 'manual' FROM contact "
                "ON CONFLICT DO NOTHING"
            )
        )
    assert run(["dry-run", "letter"]) == 1
    shown = capsys.readouterr().out
    assert "Nobody would get it." in shown
    assert "@" not in shown

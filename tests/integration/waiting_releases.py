"""Releases of the campaign `letter` that wait, in a state of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mail_orchestration.broadcast import (
    assemble_release,
    fill_audience,
    queue_release,
    release_campaign,
    resolve_release,
)
from mail_orchestration.composition import edits
from mail_orchestration.installation import Installation
from tests.scenarios.installations import execute, now, opened, write_site

WAITING = ("QUEUING", "INTERRUPTED", "QUEUED", "P_QUEUED")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The campaign `letter` of an installation with 150 contacts, 30 of whom are one child."""
    write_site(
        tmp_path,
        relay_port=9,
        contacts=150,
        dispatcher={"assembly_processes": 1},
        mailcasters=[{"name": "m1", "min_job_size": 10, "max_job_size": 30, "percentage_job_size": 20}],
    )
    return tmp_path / "campaigns" / "letter"


@pytest.fixture
def inst(folder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    # Edits count at once: no test waits a minute.
    monkeypatch.setattr(edits, "SETTLES_AFTER", timedelta(0))
    with opened(folder.parents[1] / "mail_orchestration.yaml", database_url, monkeypatch) as installation:
        fill_audience(installation, "everybody", now=now())
        yield installation


def released(inst: Installation, folder: Path, *, until: str = "P_QUEUED", again: bool = False) -> int:
    """The campaign released, and carried on until its mail job is in this state."""
    release_id = release_campaign(inst, folder, now=now(), again=again).release_id
    if until == "QUEUING":
        return release_id
    if until == "INTERRUPTED":
        execute(inst, "UPDATE mail_job SET state = 'INTERRUPTED' WHERE mail_job_id = :id", id=release_id)
        return release_id
    resolve_release(inst, release_id, now=now())
    assemble_release(inst, release_id, now=now())
    queue_release(inst, release_id, now=now())
    if until == "QUEUED":
        execute(
            inst,
            "UPDATE mail_job SET kind = 'small', state = 'QUEUED', next_message = NULL WHERE mail_job_id = :id",
            id=release_id,
        )
    return release_id


def edit(folder: Path, words: str = "Something else, {{ name }}.") -> None:
    (folder / "message.html.j2").write_text(f"<p>{words}</p>", encoding="utf-8")

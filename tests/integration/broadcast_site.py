"""An installation with 300 contacts, whose campaign is changed and released; its relay nobody has started."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from mail_orchestration.broadcast import (
    fill_audience,
    release_campaign,
    resolve_release,
)
from mail_orchestration.installation import Installation
from tests.scenarios.installations import opened, write_site

NOW = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The folder of an installation with 300 contacts, whose relay nobody has started."""
    write_site(tmp_path, relay_port=9, contacts=300)
    return tmp_path


@pytest.fixture
def inst(site: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """The installation in the folder `site`, which a file of tests may make otherwise."""
    with opened(site / "mail_orchestration.yaml", database_url, monkeypatch) as opened_installation:
        yield opened_installation


def break_connections(database_url: str) -> None:
    """End every session on the database but our own."""
    with psycopg.connect(database_url) as killer:
        killer.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def campaign(site: Path, **changes: object) -> Path:
    """The campaign's folder, with these keys in campaign.yaml."""
    write_site(site, relay_port=9, contacts=300, campaign=changes)
    return site / "campaigns" / "letter"


def made(inst: Installation, folder: Path) -> int:
    """A resolved release."""
    fill_audience(inst, "everybody", now=NOW)
    release_id = release_campaign(inst, folder, now=NOW).release_id
    resolve_release(inst, release_id, now=NOW)
    return release_id

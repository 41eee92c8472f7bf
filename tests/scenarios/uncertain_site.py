"""An installation whose relay drops the connection after the final dot, for those whose addresses ask it to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mail_orchestration.installation import Installation
from tests.scenarios.relays.scripted import ScriptedRelay
from tests.scenarios.scripted_site import scripted_site

ONCE = [f"once-drop-at-dot-{n}" for n in range(6)]
ALWAYS = [f"drop-at-dot-{n}" for n in range(3)]
CONNECTIONS = 5


def site_of(
    folder: Path,
    server: ScriptedRelay,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    contacts: Sequence[str],
    *,
    campaign: dict[str, object] | None = None,
    max_attempts: int = 5,
) -> AbstractContextManager[Installation]:
    """An installation of these local parts."""
    return scripted_site(
        folder,
        server,
        database_url,
        monkeypatch,
        wait_s=2.0,
        contacts=contacts,
        campaign=campaign,
        mailcasters=[{"name": "m1", "min_job_size": 40, "max_job_size": 1000, "connections": CONNECTIONS}],
        dispatcher={"max_attempts": max_attempts},
    )


def ordinary(count: int) -> list[str]:
    return [f"r{n}" for n in range(count)]

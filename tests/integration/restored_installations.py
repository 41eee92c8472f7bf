"""An installation with work to do, whose database is restored, copied or put back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mail_orchestration import holding
from mail_orchestration.installation import Installation
from mail_orchestration.mailcaster import has_work, run_shift
from tests.scenarios.installations import claim, opened, released, write_site

CONTACTS = 40


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """An installation whose relay nobody has started."""
    return write_site(tmp_path, relay_port=9, contacts=CONTACTS, dispatcher={"assembly_processes": 1})


@pytest.fixture
def worked_with(settings: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database in which a small mail job waits."""
    with opened(settings, database_url, monkeypatch) as inst:
        released(inst)
        assert may_send(inst)
    return database_url


def may_send(inst: Installation) -> bool:
    """Whether there is work for the mailcaster; checked in all the ways that there are."""
    has = has_work(inst, "m1")
    assert has == (not holding.why_held(inst))
    if not has:
        assert claim(inst) is None
        assert run_shift(inst, "m1", stop=threading.Event()).ended_because == "held"
    return has

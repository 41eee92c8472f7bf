"""A site where everybody has a mail already, so that the frequency policy holds the next one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from mail_orchestration.broadcast import release_campaign, resolve_release
from mail_orchestration.installation import Installation
from mail_orchestration.mailcaster import run_shift
from tests.scenarios.installations import now, released, site_with_sink
from tests.scenarios.relays.postfix_sink import Sink

ONE_A_DAY = {"enabled": True, "rules": [{"max_mails": 1, "days": 1}]}
IN_THREE_DAYS = timedelta(days=3)
"""Then a mail of today counts no more."""


def rewrite(inst: Installation, says: str) -> Path:
    """The campaign says something else from now on; its folder."""
    folder = inst.settings.campaigns_dir / "letter"
    (folder / "message.html.j2").write_text(f"<p>Dear {{{{ name }}}}, {says}</p>", encoding="utf-8")
    return folder


@contextmanager
def site_that_holds(
    folder: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    contacts: int,
    shelf_life_days: int = 7,
) -> Iterator[tuple[Installation, Sink, int]]:
    """The installation, its relay, and the mail job that says `second` and is held for everybody."""
    with site_with_sink(
        folder,
        database_url,
        monkeypatch,
        contacts=contacts,
        dispatcher={"assembly_processes": 1},
        frequency={**ONE_A_DAY, "shelf_life_days": shelf_life_days},
    ) as (inst, sink):
        released(inst)
        run_shift(inst, "m1", stop=threading.Event())
        held = release_campaign(inst, rewrite(inst, "second"), now=now()).release_id
        assert resolve_release(inst, held, now=now()).bypassed == {"held": contacts}
        for file in sink.files():
            file.unlink()
        yield inst, sink, held

"""An installation whose relay is scripted: what becomes of a message stands in its address, and pauses are short."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mail_orchestration.egress.relay import Backoff
from mail_orchestration.installation import Installation
from mail_orchestration.mailcaster import shift
from mail_orchestration.single_mailer import shift as loose_shift
from tests.scenarios.installations import opened, write_site
from tests.scenarios.relays.scripted import ScriptedRelay, relay_to


@contextmanager
def shifts_go_to(server: ScriptedRelay, monkeypatch: pytest.MonkeyPatch, **relay: Any) -> Iterator[None]:
    """Shifts in this process deliver to this relay, as `relay_to` takes it, and back off for milliseconds only."""
    leads_there = relay_to(
        server, backoff=Backoff(first_s=0.005, longest_s=0.02), connections=20, **{"name": "sink", **relay}
    )
    with monkeypatch.context() as patch:
        for module in (shift, loose_shift):
            patch.setattr(module, "relays_of", lambda *_: [leads_there])
        yield


@contextmanager
def scripted_site(
    folder: Path,
    server: ScriptedRelay,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    wait_s: float = 5.0,
    **parts: Any,
) -> Iterator[Installation]:
    """As `write_site` makes it. Shifts in processes of their own make the usual pauses."""
    settings = write_site(folder, relay_port=server.port, **parts)
    with (
        shifts_go_to(server, monkeypatch, wait_s=wait_s),
        opened(settings, database_url, monkeypatch) as inst,
    ):
        yield inst

"""An installation whose relay drops the connection after the final dot, for those whose addresses ask it to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from mail_orchestration.egress.relay import Backoff
from mail_orchestration.installation import Installation
from mail_orchestration.mailcaster import shift
from tests.scenarios.installations import opened, write_site
from tests.scenarios.relays.scripted import ScriptedRelay, relay_to

ONCE = [f"once-drop-at-dot-{n}" for n in range(6)]
ALWAYS = [f"drop-at-dot-{n}" for n in range(3)]
CONNECTIONS = 5


@contextmanager
def site_of(
    folder: Path,
    server: ScriptedRelay,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    locals_: Sequence[str],
    *,
    campaign: dict[str, object] | None = None,
    max_attempts: int = 5,
) -> Iterator[Installation]:
    """An installation whose shifts here make short pauses; those in processes of their own make the usual ones."""
    settings = write_site(
        folder,
        relay_port=server.port,
        campaign=campaign,
        mailcasters=[{"name": "m1", "min_job_size": 40, "max_job_size": 1000, "connections": CONNECTIONS}],
        dispatcher={"max_attempts": max_attempts},
    )
    lines = [f"{local}@example.net,Reader,{n}\n" for n, local in enumerate(locals_)]
    (folder / "everybody.csv").write_text("email,name,number\n" + "".join(lines), encoding="utf-8")
    pause = Backoff(first_s=0.005, longest_s=0.02)
    relay = relay_to(server, name="sink", wait_s=2.0, backoff=pause, connections=20)
    monkeypatch.setattr(shift, "relays_of", lambda *_: [relay])
    with opened(settings, database_url, monkeypatch) as inst:
        yield inst


def ordinary(count: int) -> list[str]:
    return [f"r{n}" for n in range(count)]


def address_of(local: str) -> str:
    return f"{local}@example.net"

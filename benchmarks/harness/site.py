"""An installation to measure: one relay, one audience, and the campaigns of benchmarks/campaigns/."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml

from benchmarks.harness.cpu import cpu_seconds
from mail_orchestration import broadcast
from mail_orchestration.installation import Installation

CAMPAIGNS = Path(__file__).parents[1] / "campaigns"
T = TypeVar("T")


def addresses(count: int, domain: str = "example.net") -> list[str]:
    """So many, all different."""
    return [f"r{number}@{domain}" for number in range(1, count + 1)]


def write_site(
    folder: Path,
    port: int,
    contacts: Sequence[str],
    *,
    connections: int = 50,
    limits: Mapping[str, int] | None = None,
    domains: Sequence[Mapping[str, Any]] = (),
    mailcasters: Sequence[str] = ("m1",),
    parameters: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> Path:
    """Settings, campaigns and a list of these addresses. Its relay listens on `port`.

    Each mailcaster has `connections` connections, and the relay takes as many as all of them; `parameters` are more of
    those of some. Written again, the list takes the place of the one before.
    """
    shutil.copytree(CAMPAIGNS, folder / "campaigns", dirs_exist_ok=True)
    write_contacts(folder, contacts)
    relay = {"name": "relay", "host": "127.0.0.1", "port": port, "tls": "none"}
    settings = {
        "relays": [
            {
                **relay,
                "connections": connections * len(mailcasters),
                **({"limits": dict(limits)} if limits else {}),
            }
        ],
        "domains": [dict(each) for each in domains],
        "mailcasters": [
            {"name": name, "connections": connections, **parameters.get(name, {})} for name in mailcasters
        ],
        "audiences": [{"name": "everybody", "csv": "everybody.csv", "mode": "replace"}],
    }
    path = folder / "mail_orchestration.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def write_contacts(folder: Path, contacts: Sequence[str]) -> None:
    """The list of the audience `everybody`: a name, a number, a city and points for each."""
    cities = ("Kraków", "Grünau", "Lyon", "", "Gent")
    with (folder / "everybody.csv").open("w", encoding="utf-8") as csv:
        csv.write("email,name,number,city,points\n")
        csv.writelines(
            f"{address},Reader {n},{n},{cities[n % len(cities)]},{n * 7 % 250}\n"
            for n, address in enumerate(contacts, 1)
        )


@dataclass(slots=True)
class Released:
    """A release that is queued."""

    release_id: int = 0
    messages: int = 0
    composed_octets: int = 0
    stored_octets: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """Of import, dedup, assembly and queueing."""
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    """Of the same, by our processes."""


def release(inst: Installation, campaign: str = "letter") -> Released:
    """From the list to the queue, in this process and its assembly processes."""
    now, made = datetime.now(UTC), Released()

    def timed(step: str, work: Callable[[], T]) -> T:
        began, cpu_before = time.perf_counter(), cpu_seconds()
        done = work()
        made.seconds[step], made.cpu_seconds[step] = time.perf_counter() - began, cpu_seconds() - cpu_before
        return done

    timed("import", lambda: broadcast.fill_audience(inst, "everybody", now=now, mode="replace"))
    folder = inst.settings.folder / "campaigns" / campaign
    made.release_id = broadcast.release_campaign(inst, folder, now=now, again=True).release_id
    timed("dedup", lambda: broadcast.resolve_release(inst, made.release_id, now=now))
    summary = timed("assembly", lambda: broadcast.assemble_release(inst, made.release_id, now=now))
    timed("queueing", lambda: broadcast.queue_release(inst, made.release_id, now=now))
    made.messages = summary.messages
    made.composed_octets, made.stored_octets = summary.composed_bytes, summary.stored_bytes
    return made

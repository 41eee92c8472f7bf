"""How right a forecast is: the finish time that it names beside the real one, of a release under a relay's limit.

    python -m benchmarks.forecast --contacts 20000 --per-second 400

The fleet is measured first, by a release of a thousand contacts without the limit. Then the release is foreseen and
delivered to Postfix's `smtp-sink`, a limited recipient domain beside the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from benchmarks.harness import command_line
from benchmarks.harness.databases import own_folder
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.harness.postfix import sink
from benchmarks.harness.shift import shifts
from benchmarks.harness.site import addresses, release, write_contacts, write_site
from mail_orchestration.forecasts import forecast_release
from mail_orchestration.installation import open_installation
from mail_orchestration.kernel.clock import utc_now
from mail_orchestration.kernel.settings import load_settings

SLOW_SHARE = 10
"""One in so many contacts is of the limited domain, whose limit is a little lower than its share of the relay's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    contacts: int = 20_000
    connections: int = 50
    per_second: int = 400
    rounds: int = 3


def measure(sizes: Sizes) -> list[Measurement]:
    """Each round on an installation of its own."""
    foreseen, real = [], []
    for _ in range(sizes.rounds):
        with own_folder() as folder, sink() as port:
            foreseen_s, real_s = compare(folder, port, sizes)
            foreseen.append(foreseen_s)
            real.append(real_s)
    return [
        Measurement(
            name=f"{sizes.contacts:,} mails at {sizes.per_second}/s, from the forecast to the end",
            unit="s",
            runs=tuple(real),
            reference="the forecast",
            reference_runs=tuple(foreseen),
            target=Target(at_least=0.9, at_most=1.1),
        )
    ]


def compare(folder: Path, port: int, sizes: Sizes) -> tuple[float, float]:
    """Seconds that were foreseen, and seconds that it took."""
    contacts = addresses(sizes.contacts)
    contacts[::SLOW_SHARE] = [
        each.replace("@example.net", "@slow.example") for each in contacts[::SLOW_SHARE]
    ]
    settings = write_site(folder, port, contacts[:1000], connections=sizes.connections)
    with open_installation(settings, application_name="benchmark") as inst:
        release(inst)
        shifts(settings)
        write_contacts(folder, contacts)
        release_id = release(inst).release_id
        slow_per_minute = int(60 * 0.9 * sizes.per_second / SLOW_SHARE)
        write_site(
            folder,
            port,
            contacts,
            connections=sizes.connections,
            limits={"per_second": sizes.per_second},
            domains=[{"name": "slow.example", "limits": {"per_minute": slow_per_minute}}],
        )
        now = utc_now()
        found = forecast_release(replace(inst, settings=load_settings(settings)), release_id, now=now)
        assert found.finish_at is not None
        (shift,) = shifts(settings)
    return (found.finish_at - now) / timedelta(seconds=1), shift.seconds


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(contacts=2_000, per_second=500, rounds=1))

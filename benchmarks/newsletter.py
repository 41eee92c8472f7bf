"""A newsletter of 14 KB, from its release to the last accepted message, beside Jinja2's sandbox rendering it alone.

    python -m benchmarks.newsletter --contacts 100000 --rounds 3

HTML and text with loops and conditions, and three signed links in each message. The reference renders subject, `To`,
HTML and text of as many contacts as `--rendered` with Jinja2's own sandbox in this process, on one core, and does
nothing with what comes out. The release is timed as an operator would see it: dedup, assembly, queueing and delivery by
one mailcaster to Postfix's `smtp-sink`. CPU time is that of all our processes, without PostgreSQL's and the sink's.
Delivery has a second reference: `smtp-source -d` with messages of that size to the same sink, which may be the limit.
"""

from __future__ import annotations

import csv
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import yaml
from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from benchmarks.harness import command_line
from benchmarks.harness.databases import own_folder
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.harness.postfix import sink, smtp_source
from benchmarks.harness.rates import octets_of
from benchmarks.harness.shift import shifts
from benchmarks.harness.site import CAMPAIGNS, addresses, release, write_site
from mail_orchestration.installation import open_installation

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SAMPLES = 4
"""Of rendering alone, before assembly and after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    contacts: int = 100_000
    rendered: int = 3_000
    connections: int = 100
    sessions: int = 10
    rounds: int = 3


def measure(sizes: Sizes) -> list[Measurement]:
    """Rendering alone and a whole release in each round."""
    runs: dict[str, list[float]] = defaultdict(list)
    with own_folder() as folder, sink() as port:
        settings = write_site(folder, port, addresses(sizes.contacts), connections=sizes.connections)
        with open_installation(settings, application_name="benchmark") as inst:
            for _ in range(sizes.rounds):
                # A second of rendering differs by half from one to the next: so some before, and some after.
                rendered = [rendering_alone(folder, sizes.rendered) for _ in range(SAMPLES)]
                before = octets_of(inst)["message"]
                made = release(inst, "newsletter")
                rendered += [rendering_alone(folder, sizes.rendered) for _ in range(SAMPLES)]
                runs["rendering"].append(median(rendered))
                runs["grown"].append((octets_of(inst)["message"] - before) / made.messages)
                octets = made.composed_octets // made.messages
                runs["smtp-source"].append(
                    smtp_source(port, messages=sizes.contacts, octets=octets, sessions=sizes.sessions)
                )
                (shift,) = shifts(settings)
                if shift.messages != sizes.contacts:
                    raise SystemExit(f"{shift.messages} of {sizes.contacts} messages have a result")
                cpu_s = sum(made.cpu_seconds.values()) - made.cpu_seconds["import"] + shift.cpu_seconds
                assembly_s = made.seconds["assembly"]
                wall_s = sum(made.seconds.values()) - made.seconds["import"] + shift.seconds
                runs["a CPU-second"].append(sizes.contacts / cpu_s)
                runs["a second"].append(sizes.contacts / wall_s)
                runs["assembly a second of one core"].append(sizes.contacts / assembly_s / CORES)
                runs["delivery"].append(shift.rate)
                runs["octets"].append(made.composed_octets / made.messages)
                runs["stored"].append(made.stored_octets / made.messages)
                runs["cores"].append(made.cpu_seconds["assembly"] / assembly_s)
    return [*_rates(runs, sizes), *_sizes(runs)]


def _rates(runs: dict[str, list[float]], sizes: Sizes) -> Iterator[Measurement]:
    what = f"{sizes.contacts:,} newsletters"
    for name, run, target in (
        (
            f"{what}, assembly: messages a second for each core",
            "assembly a second of one core",
            Target(at_least=0.4),
        ),
        (f"{what}, delivery: messages a second", "delivery", Target(at_least=10_000, of="value")),
        (f"{what}, release to all accepted: messages a second", "a second", None),
        (f"{what}, release to all accepted: messages a CPU-second", "a CPU-second", None),
    ):
        yield Measurement(
            name=name,
            unit="messages/s",
            runs=tuple(runs[run]),
            reference="Jinja2's sandbox, rendering alone on one core",
            reference_runs=tuple(runs["rendering"]),
            target=target,
            goal=2,
        )
    yield Measurement(
        name=f"{what}, delivery: messages a second, beside what the sink takes of that size",
        unit="messages/s",
        runs=tuple(runs["delivery"]),
        reference=f"`smtp-source -d -s {sizes.sessions}` with messages of that size",
        reference_runs=tuple(runs["smtp-source"]),
        goal=2,
    )


def _sizes(runs: dict[str, list[float]]) -> Iterator[Measurement]:
    yield Measurement(
        name="newsletter: octets stored for each",
        unit="octets",
        runs=tuple(runs["stored"]),
        reference="octets of the message",
        reference_runs=tuple(runs["octets"]),
        goal=2,
    )
    yield Measurement(
        name="newsletter: octets that messages take in the database, each, with rows and indexes",
        unit="octets",
        runs=tuple(runs["grown"]),
        reference="octets of the message",
        reference_runs=tuple(runs["octets"]),
        target=Target(at_most=300, of="value"),
        goal=4,
    )
    yield Measurement(
        name="newsletter: cores that our processes keep busy during assembly, PostgreSQL's not counted",
        unit="cores",
        runs=tuple(runs["cores"]),
        reference="cores",
        reference_runs=(float(CORES),),
        target=Target(at_least=0.8),
        goal=2,
    )


def rendering_alone(folder: Path, count: int) -> float:
    """Messages that Jinja2's sandbox renders in a second of CPU time."""
    campaign = yaml.safe_load((CAMPAIGNS / "newsletter" / "campaign.yaml").read_text(encoding="utf-8"))
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(CAMPAIGNS / "newsletter"),
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates = [environment.get_template(name) for name in ("message.html.j2", "message.txt.j2")]
    templates += [environment.from_string(campaign[key]) for key in ("subject", "to_name")]
    url = "https://mail.loewenzahn.example/u/k1." + "x" * 120
    with (folder / "everybody.csv").open(encoding="utf-8", newline="") as file:
        readers = [row for row, _ in zip(csv.DictReader(file), range(count), strict=False)]
    began = time.process_time()
    for reader in readers:
        for template in templates:
            template.render(campaign["variables"], **reader, unsubscribe_url=url)
    return len(readers) / (time.process_time() - began)


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(contacts=2_000, rendered=300, rounds=1))

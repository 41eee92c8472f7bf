"""How right `mail-orchestration simulate` is: what it reckons beside what the same release really takes.

    python -m benchmarks.simulation --largest 100000
    python -m benchmarks.simulation --largest 0 --write .mail_orchestration/simulation_rates.yaml

This machine's rates are measured first, in short runs of at most 20,000 messages, and written to where `simulate` reads
them. With these, cases of up to `--largest` recipients are reckoned and run: to Postfix's `smtp-sink`, with and without
limits, and one with failures to the demo's relay. The reference is what was reckoned: a ratio of 1.1 took a tenth
longer.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import command_line
from benchmarks.harness.databases import own_folder
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.harness.postfix import sink
from benchmarks.harness.rates import measured_rates, site, whole
from benchmarks.harness.site import addresses
from mail_orchestration.cli.demo_relay import PORT_FILE
from mail_orchestration.kernel.settings import load_settings
from mail_orchestration.simulation import Simulation, read_scenario, scenario_of, simulate
from mail_orchestration.simulation.rates import RATES_FILE, read_rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    largest: int = 1_000_000
    smallest: int = 1
    rates_anew: int = 1
    """0: those that were written last are taken."""
    write: Path = Path(".mail_orchestration") / RATES_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A release."""

    name: str
    recipients: int
    settings: dict[str, Any]
    slow: float = 0.0
    """Shares: of a domain with a limit, of addresses that are refused, and of those that are always deferred."""
    gone: float = 0.0
    full: float = 0.0


CASES = (
    Case(name="no limits", recipients=10_000, settings={}),
    Case(name="no limits", recipients=100_000, settings={}),
    Case(name="400 a second", recipients=10_000, settings={"limits": {"per_second": 400}}),
    Case(name="1,500 a second", recipients=100_000, settings={"limits": {"per_second": 1500}}),
    Case(
        name="60 a second to a fifth",
        recipients=10_000,
        settings={"domains": [{"name": "slow.example", "limits": {"per_second": 60}}]},
        slow=0.2,
    ),
    Case(
        name="200 a second, 1 % refused, 2 % deferred three times",
        recipients=5_000,
        settings={
            "limits": {"per_second": 200},
            "dispatcher": {"max_attempts": 3, "retry_after_minutes": 0.2},
        },
        gone=0.01,
        full=0.02,
    ),
    Case(name="no limits", recipients=1_000_000, settings={}),
)


def measure(sizes: Sizes) -> list[Measurement]:
    """The rates, then each case."""
    with own_folder() as folder, sink() as port:
        if sizes.rates_anew:
            rates = measured_rates(folder, port)
            sizes.write.parent.mkdir(parents=True, exist_ok=True)
            sizes.write.write_text(yaml.safe_dump(rates, sort_keys=False), encoding="utf-8")
        found: list[Measurement] = []
        for number, case in enumerate(CASES):
            if sizes.smallest <= case.recipients <= sizes.largest:
                found += compared(folder / f"case{number}", case, sizes.write)
    return found


def compared(folder: Path, case: Case, rates: Path) -> list[Measurement]:
    """Each step of a case, and all of them."""
    with demo_relay(folder.with_suffix(".relay")) if case.full else sink() as port:
        settings = site(folder, port, steered(case), **case.settings)
        reckoned = phases(reckon(case, settings, rates))
        real = whole(settings).seconds
    real["sending"] = real.pop("start") + real.pop("delivery") + real.pop("queueing")
    both = {step: (real[step], reckoned[step]) for step in reckoned}
    both["all"] = (sum(real.values()), sum(reckoned.values()))
    return [
        Measurement(
            name=f"{case.recipients:,} recipients, {case.name}: {step}",
            unit="s",
            runs=(took,),
            reference="the simulation",
            reference_runs=(foreseen,),
            target=Target(at_least=0.8, at_most=1.25) if step == "all" else None,
        )
        for step, (took, foreseen) in both.items()
    ]


def phases(found: Simulation) -> dict[str, float]:
    """Seconds of import, dedup, assembly, and of everything from the queue on."""
    seconds = {phase.name: phase.seconds for phase in found.phases}
    before = {step: seconds.pop(step) for step in ("import", "dedup", "assembly")}
    return {**before, "sending": sum(seconds.values())}


def reckon(case: Case, settings: Path, rates: Path) -> Simulation:
    """What the command reckons with these settings."""
    base = scenario_of(load_settings(settings)) | {"rates": read_rates(rates).model_dump()}
    given = {
        "mix": [{"domain": "slow.example", "share": case.slow}, {"domain": "*", "share": 1 - case.slow}],
        "failures": {
            "rejected": case.gone,
            "deferred": case.full,
            # An address that is full stays full; none of those is refused.
            "deferred_again": 1 - case.gone if case.full else 0.0,
        },
    }
    return simulate(read_scenario(None, base=base, given=given), case.recipients, now=datetime.now(UTC))


def steered(case: Case) -> list[str]:
    """Addresses, those that are different lying evenly among the others."""
    found = addresses(case.recipients)
    due = dict.fromkeys(("slow", "gone", "full"), 0.0)
    for number, address in enumerate(found):
        for kind in due:
            due[kind] += getattr(case, kind)
        kind = max(due, key=lambda kind: due[kind])
        if due[kind] >= 1:
            due[kind] -= 1
            found[number] = (
                address.replace("example.net", "slow.example") if kind == "slow" else kind + address
            )
    return found


@contextmanager
def demo_relay(folder: Path) -> Iterator[int]:
    """The port of the relay of `mail-orchestration demo`, which some addresses steer."""
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-m", "mail_orchestration.cli.demo_relay", str(folder)])
    try:
        while not (folder / PORT_FILE).exists():
            time.sleep(0.1)
        yield int((folder / PORT_FILE).read_text(encoding="utf-8"))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(largest=10_000))

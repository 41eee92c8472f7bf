"""All benchmarks, and their figures in one table: `python -m benchmarks`, or `make bench`.

    python -m benchmarks [--quick] [--folder build/bench] [NAME …]

Each runs alone, in a process of its own. figures.md and figures.json of the folder have the table. The exit code is 1
when a benchmark breaks, and never for a figure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.harness.databases import server_version
from benchmarks.harness.gathered import Gathered, write_figures
from benchmarks.harness.machine import machine
from benchmarks.harness.measurements import from_document

BENCHMARKS = (
    "delivery",
    "egress_only",
    "results_log",
    "newsletter",
    "import_and_dedup",
    "million",
    "under_dagster",
    "dkim",
    "fifty_million",
    "single_mails",
    "throttle",
    "forecast",
    "simulation",
    "frequency",
    "clean_up",
)
"""In the order of the goals; then those that belong to none."""
NEVER_QUICK = {"simulation", "single_mails"}
"""They take a minute and more, however small: real releases to compare with, and Dagster at its own pace."""
QUICK_AT_ONCE = 3
"""Of benchmarks whose figures are of no interest. Otherwise each has the machine to itself."""


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME", help="all by default")
    options.add_argument(
        "--quick", action="store_true", help="small sizes: says whether they work, not how well"
    )
    options.add_argument(
        "--folder", type=Path, default=Path("build/bench"), help="for figures.md and figures.json"
    )
    chosen = options.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(QUICK_AT_ONCE if chosen.quick else 1) as executor:
        run = partial(_one, folder=chosen.folder, is_quick=chosen.quick)
        usual = [name for name in BENCHMARKS if not (chosen.quick and name in NEVER_QUICK)]
        gathered = list(executor.map(run, chosen.names or usual))
    told = write_figures(chosen.folder, gathered, machine(server_version()), is_quick=chosen.quick)
    print(told)
    broken = [each.name for each in gathered if each.exit_code]
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return int(bool(broken))


def _one(name: str, folder: Path, *, is_quick: bool) -> Gathered:
    """Run one benchmark, and print what it prints."""
    command = ["-m", f"benchmarks.{name}", *(["--quick"] if is_quick else [])]
    document = folder / f"{name}.json"
    document.unlink(missing_ok=True)
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, *command, "--json", str(document)],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    print(f"== {name}\n{ran.stdout}", flush=True)
    code = ran.returncode
    measurements = () if code else tuple(map(from_document, json.loads(document.read_text(encoding="utf-8"))))
    document.unlink(missing_ok=True)
    return Gathered(
        name=name,
        command=" ".join(["python", *command]),
        seconds=time.monotonic() - began,
        exit_code=code,
        measurements=measurements,
    )


if __name__ == "__main__":
    sys.exit(main())

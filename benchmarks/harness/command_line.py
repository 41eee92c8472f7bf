"""The command line that all benchmarks share: their sizes as options, a table, and JSON for who gathers them."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.harness.measurements import Measurement, as_document, table

Sizes = TypeVar("Sizes")


def run(
    about: str | None,
    measure: Callable[[Sizes], Sequence[Measurement]],
    *,
    full: Sizes,
    quick: Sizes,
    arguments: Sequence[str] | None = None,
) -> None:
    """Measure with the sizes that the command line asks for, and tell.

    `about` is the benchmark's docstring. `full` and `quick` are the same frozen dataclass; each of its fields becomes
    an option, whose default is `quick`'s where `--quick` is given.
    """
    chosen, document = _chosen(about, full, quick, arguments)
    if arguments is None:
        # Told to end, a benchmark still ends the servers that it started.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    measurements = measure(chosen)
    print(table(measurements))
    if document is not None:
        document.write_text(json.dumps([as_document(each) for each in measurements]), encoding="utf-8")


def _chosen(
    about: str | None, full: Any, quick: Any, arguments: Sequence[str] | None
) -> tuple[Any, Path | None]:
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--quick", action="store_true", help="small sizes: says whether it works, not how well"
    )
    options.add_argument("--json", type=Path, help="write the measurements to this file too")
    names = [each.name for each in fields(full)]
    for name in names:
        usual, small = getattr(full, name), getattr(quick, name)
        options.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(usual),
            help=f"{usual} by default, {small} with --quick",
        )
    given = options.parse_args(arguments)
    asked = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    return replace(quick if given.quick else full, **asked), given.json

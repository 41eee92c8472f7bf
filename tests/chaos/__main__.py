"""`python -m tests.chaos`: a run, its table, and exit status 1 unless all holds."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil

from tests.chaos.judgement import judge
from tests.chaos.plan import draw
from tests.chaos.run import Options, run
from tests.chaos.site import make_folder, remove_folder
from tests.chaos.table import document, markdown, summary

MARK = "MAIL_ORCHESTRATION_CHAOS"
"""In the environment of every process of the run, so that none is overlooked."""
GONE_WITHIN_S = 30.0
MOST_SHOWN = 20
DAGSTER_FROM, DAGSTER = 200, 5
"""From so many kills on each of Dagster's processes is killed so often: their start takes seconds of both cores."""


def main() -> int:
    """Run, judge, print."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    seed = options.replay if options.replay is not None else options.seed
    if seed is None:
        seed = secrets.randbelow(1_000_000)
    mark = f"{os.getpid()}-{seed}"
    os.environ[MARK] = mark
    os.environ.pop("DATABASE_URL", None)
    dagster = options.dagster if options.dagster is not None else DAGSTER * (options.kills >= DAGSTER_FROM)
    plan = draw(seed=seed, kills=options.kills, messages=options.messages, dagster=dagster)
    print(
        f"seed {seed}: {len(plan.faults)} faults, {plan.messages:,} messages in {len(plan.releases)} releases; "
        f"again with --replay {seed} --kills {options.kills} --messages {options.messages} --dagster {dagster}",
        flush=True,
    )
    began = time.monotonic()
    folder = make_folder()
    print(f"folder: {folder}", flush=True)
    evidence = run(
        folder,
        plan,
        Options(
            hang_after_s=options.hang_after,
            gap_s=options.gap,
            say=(lambda line: None) if options.quiet else (lambda line: print(line, flush=True)),
        ),
    )
    struck = [asdict(incident) for incident in evidence.incidents]
    (folder / "incidents.json").write_text(json.dumps(struck, indent=1), encoding="utf-8")
    evidence.left_over = left_over(mark)
    if not options.quiet:
        print(f"{time.monotonic() - began:7.1f} s  no process is left over")
    evidence.seconds = time.monotonic() - began
    found = judge(evidence)
    kills = sum(incident.kind.is_kill for incident in evidence.incidents)
    print(f"\nseed {seed}\n\n{markdown(found, evidence)}\n{summary(found, evidence, kills)}")
    for note in found.notes[:MOST_SHOWN]:
        print(f"note: {note}")
    for fault in found.faults[:MOST_SHOWN]:
        print(f"WRONG: {fault}")
    print("all holds" if found.holds else f"{len(found.faults)} things are wrong (seed {seed})")
    if options.json is not None:
        options.json.write_text(document(found, evidence, seed=seed, kills=kills), encoding="utf-8")
    if found.holds and not options.keep:
        remove_folder(folder)
    return 0 if found.holds else 1


def left_over(mark: str) -> list[str]:
    """The command lines of the run's processes that are still there after a while."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _marked(mark: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
        except psutil.Error:
            continue
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--messages", type=int, default=300_000, help="at least so many")
    parser.add_argument("--seed", type=int, help="drawn, and printed, when it is not given")
    parser.add_argument(
        "--replay", type=int, metavar="SEED", help="the same faults in the same order as then"
    )
    parser.add_argument("--hang-after", type=float, default=3.0, metavar="SECONDS")
    parser.add_argument(
        "--gap", type=float, default=1.2, metavar="SECONDS", help="between faults, on average"
    )
    parser.add_argument(
        "--dagster", type=int, metavar="TIMES", help="kill each of Dagster's processes so often"
    )
    parser.add_argument("--json", type=Path, help="write the judgement there as JSON too")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="leave the folder with journal, logs and database, as is done when something is wrong",
    )
    parser.add_argument("--quiet", action="store_true", help="only the end")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

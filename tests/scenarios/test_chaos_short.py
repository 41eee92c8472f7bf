"""A short run of the long-run harness: twenty kills and other faults over a few thousand messages, nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLS, MESSAGES = 20, 2000
SEED = 11
"""The faults are the same each time, the moments are not: what is asserted holds for all of them."""


@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
@pytest.mark.rule("5.5")
@pytest.mark.rule("1.8")
def test_nothing_is_lost_whatever_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "judgement.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.chaos", "--kills", str(KILLS), "--messages", str(MESSAGES)),
            *("--seed", str(SEED), "--gap", "0.5", "--hang-after", "2", "--json", str(told), "--quiet"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    judgement = json.loads(told.read_text(encoding="utf-8"))
    assert judgement["faults"] == []
    assert judgement["kills"] == KILLS
    assert judgement["messages"] >= MESSAGES
    assert judgement["retried"] > 0, "what was deferred came again within the run"
    assert sum(line["lost"] for line in judgement["lines"]) == 0
    assert all(line["repeated"] <= line["bound"] for line in judgement["lines"])

"""Crash points: each has a place in the code and a line in the docs, and CRASH_AT is read once, strictly."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import mail_orchestration
from mail_orchestration.kernel import crash_points
from mail_orchestration.kernel.crash_points import CRASH_POINTS
from mail_orchestration.kernel.errors import BadSettings

PACKAGE = Path(mail_orchestration.__file__).parent
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "testing.md"


def names_passed() -> Iterator[str]:
    """What is given to `crash_point` and `crash_soon`, wherever they are called."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="crash_point" | "crash_soon"), args=[name]):
                    for part in ast.walk(name):
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            yield part.value
                case _:
                    pass


def test_each_point_is_one_place_in_the_code() -> None:
    assert Counter(names_passed()) == Counter(CRASH_POINTS.keys())


def test_the_page_for_testers_says_of_each_what_the_code_says() -> None:
    said = re.findall(r"^\| `(\w+)` \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert said == list(CRASH_POINTS.items())


def passes(code: str, crash_at: str) -> subprocess.CompletedProcess[str]:
    """A process that passes `before_flush` three times, saying so each time."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CRASH_AT": crash_at},
        capture_output=True,
        text=True,
        check=False,
    )


LOOP = """
from mail_orchestration.kernel.crash_points import crash_point
for number in (1, 2, 3):
    crash_point("after_reply")
    crash_point("before_flush")
    print(number, flush=True)
"""


@pytest.mark.parametrize(("crash_at", "printed"), [("before_flush", []), ("before_flush:3", ["1", "2"])])
def test_the_process_dies_at_the_passing_that_is_named(crash_at: str, printed: list[str]) -> None:
    died = passes(LOOP, crash_at)
    assert died.returncode == -signal.SIGKILL
    assert died.stdout.split() == printed
    assert died.stderr == "CRASH_AT: this process dies at before_flush\n"


def test_other_points_and_no_point_do_nothing() -> None:
    for crash_at in ("", "before_body", "before_flush:4"):
        lived = passes(LOOP, crash_at)
        assert (lived.returncode, lived.stdout.split()) == (0, ["1", "2", "3"])


@pytest.mark.parametrize("setting", ["nowhere", "nowhere:2", "before_flush:0", "before_flush:x"])
def test_what_cannot_be_meant_is_refused_and_the_names_are_told(setting: str) -> None:
    with pytest.raises(BadSettings, match=r"^CRASH_AT: ") as refused:
        crash_points.arm(setting)
    if setting.startswith("nowhere"):
        assert all(name in str(refused.value) for name in CRASH_POINTS)


def test_a_wrong_one_ends_the_command_line_with_a_sentence() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "mail_orchestration.cli", "status"],
        env={**os.environ, "CRASH_AT": "nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode != 0
    assert "there is no crash point 'nowhere'; there are import_begun" in " ".join(told.stderr.split())
    assert "Traceback" not in told.stderr

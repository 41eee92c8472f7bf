"""A server of mutants: it has everything of others imported, so that a mutant's tests cost a fork and not seconds.

`python -m tests.mutations.mutants` reads one JSON object a line: a folder with a copy of the project, and what pytest
is to run there. It answers with pytest's exit code and what it said.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.line_server import ROOT, LineServer, answer_lines, run_in_fork

OURS = ("mail_orchestration", "tests")
"""Imported by each mutant from its own copy."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What pytest made of a mutant."""

    exit_code: int
    said: str


class MutantServer(LineServer):
    """`with MutantServer() as server: server.run(folder, ["tests/…::test_…"])`."""

    def run(self, folder: Path, arguments: Sequence[str]) -> Verdict:
        """Run the tests of the copy in `folder`."""
        return Verdict(**self.ask({"folder": str(folder), "arguments": list(arguments)}))


def _judge(order: dict[str, Any]) -> dict[str, Any]:
    exit_code, said = run_in_fork(lambda: _live(Path(order["folder"]), order["arguments"]))
    return asdict(Verdict(exit_code=exit_code, said=said))


def _import_what_they_need() -> None:
    """Ours drags in everything of others, and is then forgotten."""
    import tests.scenarios.installations  # noqa: F401

    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        if name != "__main__":
            del sys.modules[name]


def _live(folder: Path, arguments: list[str]) -> int:
    os.dup2(2, 1)
    os.chdir(folder)
    sys.dont_write_bytecode = True  # of a file that is another one in a moment
    sys.path[:] = [str(folder), *(entry for entry in sys.path if Path(entry).resolve() != ROOT and entry)]
    return int(pytest.main(arguments))


if __name__ == "__main__":
    _import_what_they_need()
    answer_lines(_judge)

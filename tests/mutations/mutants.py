"""A server of mutants: it has everything of others imported, so that a mutant's tests cost a fork and not seconds.

`python -m tests.mutations.mutants` reads one JSON object a line: a folder with a copy of the project, and what pytest
is to run there. It answers with pytest's exit code and what it said.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("mail_orchestration", "tests")
"""Imported by each mutant from its own copy."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What pytest made of a mutant."""

    exit_code: int
    said: str


class MutantServer:
    """The server's other side: `with MutantServer() as server: server.run(folder, ["tests/…::test_…"])`."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutations.mutants"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)

    def run(self, folder: Path, arguments: Sequence[str]) -> Verdict:
        """Run the tests of the copy in `folder`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"folder": str(folder), "arguments": list(arguments)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Verdict(**json.loads(self._process.stdout.readline()))


def serve() -> None:
    """Answer line by line until stdin ends."""
    _import_what_they_need()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        with tempfile.TemporaryFile() as said:
            pid = os.fork()
            if pid == 0:
                _live(Path(order["folder"]), order["arguments"], said.fileno())
            exit_code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            said.seek(0)
            verdict = Verdict(exit_code=exit_code, said=said.read().decode(errors="replace"))
        sys.stdout.write(json.dumps(asdict(verdict)) + "\n")
        sys.stdout.flush()


def _import_what_they_need() -> None:
    """Ours drags in everything of others, and is then forgotten."""
    import tests.scenarios.installations  # noqa: F401

    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        if name != "__main__":
            del sys.modules[name]


def _live(folder: Path, arguments: list[str], said: int) -> None:
    exit_code = -1
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(folder)
        sys.dont_write_bytecode = True  # of a file that is another one in a moment
        sys.path[:] = [str(folder), *(entry for entry in sys.path if Path(entry).resolve() != ROOT and entry)]
        exit_code = int(pytest.main(arguments))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code & 0xFF)


if __name__ == "__main__":
    serve()

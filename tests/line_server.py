"""A process that has everything imported once and answers orders, a line of JSON each, at the price of a fork.

A module that is such a server derives from `LineServer`, whose process runs that module, and ends with
`if __name__ == "__main__": answer_lines(…)`. It has no thread, no event loop and no connection that a fork could break.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
COULD_NOT_LIVE = 0xFF
"""The exit code of a fork that raised: not one of pytest's."""


class LineServer:
    """The server's other side: `with ServerOfYours() as server: server.ask(order)`."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", type(self).__module__],
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
        self._process.wait(timeout=60)

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """The answer to one order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def answer_lines(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer line by line until stdin ends."""
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


def wait_for_end(pid: int) -> int:
    """The exit code of a process; that of one which was killed is its signal, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_in_fork(live: Callable[[], int], wait: Callable[[int], int] = wait_for_end) -> tuple[int, str]:
    """The exit code that `live` returned in a process of its own, as `wait` tells it, and what it said on stderr."""
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            exit_code = COULD_NOT_LIVE
            try:
                os.dup2(said.fileno(), 2)
                exit_code = live()
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(exit_code & 0xFF)
        exit_code = wait(pid)
        said.seek(0)
        return exit_code, said.read().decode(errors="replace")

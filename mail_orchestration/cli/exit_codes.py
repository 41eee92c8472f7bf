"""What a command's exit code tells a script. The one table: `--help`, the docs and the tests read it."""

from __future__ import annotations

from enum import IntEnum

from mail_orchestration.kernel.errors import (
    BadInput,
    ClaimLost,
    MailOrchestrationError,
    StateConflict,
    Unavailable,
)


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    NOT_WELL = 1
    BAD_INPUT = 2
    UNAVAILABLE = 3
    CONFLICT = 4
    DEFECT = 70
    INTERRUPTED = 130


MEANING = {
    ExitCode.OK: "done, and all is well",
    ExitCode.NOT_WELL: "what was asked about is not well: findings, a failed mail job, a refused message",
    ExitCode.BAD_INPUT: "bad input or usage: mend it and try again",
    ExitCode.UNAVAILABLE: "the database, a relay or Dagster does not answer: try again later, nothing was lost",
    ExitCode.CONFLICT: "the mail job is not in the state that this needs, or somebody else works on it",
    ExitCode.DEFECT: "a defect of this program: please report it",
    ExitCode.INTERRUPTED: "interrupted with Ctrl-C",
}


def exit_code_of(error: MailOrchestrationError) -> ExitCode:
    """The exit code that tells a script what it can do about `error`."""
    match error:
        case BadInput():
            return ExitCode.BAD_INPUT
        case Unavailable():
            return ExitCode.UNAVAILABLE
        case StateConflict() | ClaimLost():
            return ExitCode.CONFLICT
        case _:
            return ExitCode.NOT_WELL


def table() -> str:
    """The exit codes as lines of text, for `--help`."""
    return "\n".join(f"{code:>3}  {MEANING[code]}" for code in ExitCode)

"""Errors of the library as an operator should meet them: what is wrong, and what to do about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import dagster as dg

from mail_orchestration.kernel.errors import (
    AssemblyFailed,
    BadInput,
    ClaimLost,
    ComponentFailed,
    MailOrchestrationError,
    StateConflict,
    Unavailable,
)


@contextlib.contextmanager
def told_to_operators() -> Iterator[None]:
    """Turn the library's errors into a `Failure` that says what to do. Everything else passes as it is."""
    try:
        yield
    except MailOrchestrationError as error:
        raise dg.Failure(
            description=str(error),
            metadata={"kind": type(error).__name__, "what_to_do": dg.MetadataValue.md(what_to_do(error))},
            allow_retries=False,
        ) from error


def what_to_do(error: MailOrchestrationError) -> str:
    """One sentence for the operator. Errors of unknown kinds get a general one."""
    match error:
        case BadInput():
            return "Mend what the message names, then start it again. Nothing was lost."
        case Unavailable():
            return (
                "Nothing was lost. The sensors try again by themselves once it answers; check that it is up."
            )
        case StateConflict():
            return (
                "The mail job was changed by somebody else first. Look at its state: usually nothing is left."
            )
        case ClaimLost():
            return (
                "Another mailcaster has taken over the mail job and goes on with it. Nothing is left to do."
            )
        case AssemblyFailed():
            return (
                "Nothing of this mail job was sent. Mend template or data, then release the campaign again."
            )
        case ComponentFailed():
            return "The custom component that is named raised. Mend it, then materialise again."
        case _:
            return "See the message. Nothing was lost; materialise again when it is mended."

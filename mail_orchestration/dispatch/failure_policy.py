"""When a relay refuses too much: a mailcaster gives a mail job up (spec 3.7), a canary stops one."""

from __future__ import annotations

SMALLEST_SAMPLE = 100
"""Before this many messages have a result a percentage says nothing (spec 3.7)."""


def gives_up(sent: int, refused: int, maximum_error_percentage: float) -> bool:
    """True when more than `maximum_error_percentage` of the `sent` messages (those with a result) were
    `refused`.
    """
    return sent >= SMALLEST_SAMPLE and refused * 100 > sent * maximum_error_percentage


def canary_verdict(messages: int, rejected: int, most_rejected_percentage: float, failure: str | None) -> str:
    """Why the rest shall not follow the first `messages`, of which `rejected` were; '' when it may.

    `failure` is why a child among them failed, if one did.
    """
    if failure is not None:
        return f"canary: its mail job failed: {failure}"
    if rejected * 100 > messages * most_rejected_percentage:
        limit = f"more than {most_rejected_percentage:g} %"
        return f"canary: {rejected} of the first {messages} messages were rejected, {limit}"
    return ""

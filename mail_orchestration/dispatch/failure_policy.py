"""When a mailcaster gives a mail job up because the relay refuses too much of it (spec 3.7)."""

from __future__ import annotations

SMALLEST_SAMPLE = 100
"""Before this many messages have a result a percentage says nothing (spec 3.7)."""


def gives_up(sent: int, refused: int, maximum_error_percentage: float) -> bool:
    """True when more than `maximum_error_percentage` of the `sent` messages (those with a result) were
    `refused`.
    """
    return sent >= SMALLEST_SAMPLE and refused * 100 > sent * maximum_error_percentage

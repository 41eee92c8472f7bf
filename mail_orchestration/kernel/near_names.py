"""What somebody may have meant who named what is not there."""

from __future__ import annotations

import difflib
from collections.abc import Collection

MOST_NAMES = 20
"""So many of the known ones are told."""


def suggestion(name: str, known: Collection[str]) -> str:
    """For the end of an error's sentence: the known name that is near, or else which ones there are."""
    if close := difflib.get_close_matches(name, known, n=1):
        return f"; did you mean {close[0]!r}?"
    told = sorted(known)[:MOST_NAMES]
    if not told:
        return "; there are none"
    return f"; known are {', '.join(told)}" + (" and others" if len(known) > len(told) else "")

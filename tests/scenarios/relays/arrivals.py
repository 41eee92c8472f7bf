"""What a relay sees of a limit: when messages came, and how many in a window."""

from __future__ import annotations

from collections.abc import Sequence

from tests.scenarios.relays.scripted import ScriptedRelay


def begun(server: ScriptedRelay) -> list[float]:
    """When each MAIL command came."""
    return sorted(moment for moment, command in server.heard if command.startswith("MAIL"))


def most_in_a_window(moments: Sequence[float], window_s: float) -> int:
    """The most of these moments, in order, that lie within any window of that length."""
    most = first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= window_s:
            first += 1
        most = max(most, last - first + 1)
    return most

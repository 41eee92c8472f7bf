"""How those who send share a relay's connections (spec 6.7). Pure."""

from __future__ import annotations

from collections.abc import Mapping


def fair_shares(most: int, wanted: Mapping[str, int]) -> dict[str, int]:
    """Of `most` connections as many for each holder as it wants, or an equal part of what the modest ones leave.

    What cannot be divided goes to the last by name.
    """
    shares: dict[str, int] = {}
    left = most
    for position, (holder, wish) in enumerate(sorted(wanted.items(), key=lambda item: (item[1], item[0]))):
        shares[holder] = min(wish, left // (len(wanted) - position))
        left -= shares[holder]
    return shares


def entitled(most: int, wanted: Mapping[str, int], held: Mapping[str, int], holder: str) -> int:
    """How many `holder` may have open from now on: its share, as far as the others have let go of it."""
    of_others = sum(count for other, count in held.items() if other != holder)
    return max(0, min(fair_shares(most, wanted)[holder], most - of_others))

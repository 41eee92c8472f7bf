"""The rows of the shared throttle: what was taken of each limit. What the numbers mean is egress' business."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from mail_orchestration.kernel.statements import STATEMENTS

Key = tuple[str, str]
"""Scope and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleRow:
    """One limit's state. Moments and lengths are microseconds, by the database's clock since 1970."""

    scope: str
    name: str
    line_origin: int
    line_interval: int
    """0 before the first slot was taken."""
    line_heads: tuple[int, ...]
    taken: dict[int, dict[int, int]]
    """Window → number of its period → messages."""

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return self.scope, self.name


def lock_throttles(connection: Connection, keys: Collection[Key]) -> tuple[dict[Key, ThrottleRow], int]:
    """The rows of these limits, made where there are none, ours until the transaction ends; and the moment."""
    binds = _names(sorted(keys))
    # Those that are missing are not locked in order with the others: first there must be all.
    for _ in range(2):
        found = connection.execute(STATEMENTS["lock_throttles"], binds).all()
        if len(found) == len(keys):
            break
        connection.execute(STATEMENTS["add_throttles"], binds)
    rows = [
        ThrottleRow(
            scope=row.scope,
            name=row.name,
            line_origin=row.line_origin,
            line_interval=row.line_interval,
            line_heads=tuple(row.line_heads),
            taken={
                int(window): {int(period): messages for period, messages in periods.items()}
                for window, periods in row.taken.items()
            },
        )
        for row in found
    ]
    return {row.key: row for row in rows}, microseconds(max(row.now for row in found))


def advance_throttles(connection: Connection, rows: Sequence[ThrottleRow]) -> int:
    """Note what was taken under locked rows; returns the moment at which that was done."""
    told = connection.execute(
        STATEMENTS["advance_throttles"],
        {
            **_names([row.key for row in rows]),
            "line_origins": [row.line_origin for row in rows],
            "line_intervals": [row.line_interval for row in rows],
            "line_heads": ["{" + ",".join(map(str, row.line_heads)) + "}" for row in rows],
            "taken": [json.dumps(row.taken) for row in rows],
        },
    ).one()
    assert told.moved == len(rows), "they are locked"
    return microseconds(told.now)


def microseconds(moment: datetime) -> int:
    """Since 1970."""
    seconds = int(moment.replace(microsecond=0).timestamp())
    return seconds * 1_000_000 + moment.microsecond


def _names(keys: Sequence[Key]) -> dict[str, list[str]]:
    return {"scopes": [scope for scope, _ in keys], "names": [name for _, name in keys]}

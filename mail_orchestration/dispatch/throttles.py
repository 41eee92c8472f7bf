"""The rows of the shared throttle: what was taken of each limit. What the numbers mean is egress' business."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row

from mail_orchestration.kernel.statements import STATEMENTS

Kind = Literal["relay", "domain"]
Key = tuple[Kind, str]
"""Scope and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOffRow:
    """That a limit's holder asked for less. Moments as in `ThrottleRow`, rates in messages per second."""

    rate: float
    full_rate: float
    since: int
    cut_at: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleRow:
    """One limit's state. Moments and lengths are microseconds, by the database's clock since 1970."""

    scope: Kind
    name: str
    line_origin: int
    line_interval: int
    """0 before the first slot was taken."""
    line_lateness: int
    line_heads: tuple[int, ...]
    line_short_at: int
    taken: dict[int, dict[int, int]]
    """Window → number of its period → messages."""
    first_used: int
    back_off: BackOffRow | None

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
    rows = [_row(row) for row in found]
    return {row.key: row for row in rows}, microseconds(max(row.now for row in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedThrottle:
    """What is used of one limit's quotas, and since when; as in `ThrottleRow`."""

    taken: dict[int, dict[int, int]]
    first_used: int


def used_throttles(connection: Connection, keys: Collection[Key]) -> dict[Key, UsedThrottle]:
    """What is used of these limits; nothing is locked, and those that nobody has sent under are left out."""
    rows = connection.execute(STATEMENTS["read_used_throttles"], _names(sorted(keys)))
    return {
        (row.scope, row.name): UsedThrottle(
            taken=_taken(row.taken), first_used=microseconds(row.first_used_at)
        )
        for row in rows
    }


def advance_throttles(connection: Connection, rows: Sequence[ThrottleRow]) -> int:
    """Note what was taken under locked rows; returns the moment at which that was done."""
    told = connection.execute(
        STATEMENTS["advance_throttles"],
        {
            **_names([row.key for row in rows]),
            "line_origins": [row.line_origin for row in rows],
            "line_intervals": [row.line_interval for row in rows],
            "line_latenesses": [row.line_lateness for row in rows],
            "line_short_ats": [row.line_short_at for row in rows],
            "line_heads": ["{" + ",".join(map(str, row.line_heads)) + "}" for row in rows],
            "taken": [json.dumps(row.taken) for row in rows],
        },
    ).one()
    assert told.moved == len(rows), "they are locked"
    return microseconds(told.now)


def write_back_off(connection: Connection, key: Key, back_off: BackOffRow) -> None:
    """Note under a locked row that less was asked for."""
    scope, name = key
    connection.execute(STATEMENTS["write_back_off"], {"scope": scope, "name": name, **asdict(back_off)})


def list_back_offs(connection: Connection, *, cut_since: int) -> dict[Key, BackOffRow]:
    """What was cut since that moment."""
    rows = connection.execute(STATEMENTS["list_back_offs"], {"cut_since": cut_since})
    return {(row.scope, row.name): found for row in rows if (found := _back_off(row)) is not None}


def forget_unused_domains(connection: Connection, *, days: int) -> int:
    """Delete the rows of recipient domains that nobody sent to or cut for so many days; how many they were.

    No quota reaches that far back. Relays keep theirs: since when they are used decides on their ramp.
    """
    return connection.execute(STATEMENTS["forget_unused_domains"], {"days": days}).rowcount


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleListed:
    """One limit's state for people."""

    row: ThrottleRow
    connections: int
    """Of a relay, as far as they are held."""
    holders: int
    """Processes that hold or want them."""
    now: int


def list_throttles(
    connection: Connection, *, active_since: datetime, cut_since: int, silent_for_s: float
) -> list[ThrottleListed]:
    """All relays, and the recipient domains that something was taken of or cut since those moments."""
    rows = connection.execute(
        STATEMENTS["list_throttles"],
        {"active_since": active_since, "cut_since": cut_since, "silent_for_s": silent_for_s},
    )
    return [
        ThrottleListed(
            row=_row(row), connections=row.connections, holders=row.holders, now=microseconds(row.now)
        )
        for row in rows
    ]


def _row(row: Row[Any]) -> ThrottleRow:
    return ThrottleRow(
        scope=row.scope,
        name=row.name,
        line_origin=row.line_origin,
        line_interval=row.line_interval,
        line_lateness=row.line_lateness,
        line_heads=tuple(row.line_heads),
        line_short_at=row.line_short_at,
        taken=_taken(row.taken),
        first_used=microseconds(row.first_used_at),
        back_off=_back_off(row),
    )


def _taken(document: Mapping[str, Mapping[str, int]]) -> dict[int, dict[int, int]]:
    return {
        int(window): {int(period): messages for period, messages in periods.items()}
        for window, periods in document.items()
    }


def _back_off(row: Row[Any]) -> BackOffRow | None:
    if row.back_off_rate is None:
        return None
    return BackOffRow(
        rate=row.back_off_rate,
        full_rate=row.back_off_full_rate,
        since=row.back_off_since,
        cut_at=row.back_off_cut_at,
        reason=row.back_off_reason,
    )


def microseconds(moment: datetime) -> int:
    """Since 1970."""
    seconds = int(moment.replace(microsecond=0).timestamp())
    return seconds * 1_000_000 + moment.microsecond


def _names(keys: Sequence[Key]) -> dict[str, list[str]]:
    return {"scopes": [scope for scope, _ in keys], "names": [name for _, name in keys]}

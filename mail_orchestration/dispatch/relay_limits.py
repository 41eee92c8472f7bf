"""What each installation lets a relay have: where several name one, the stricter of each kind holds (spec 6.7)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection

from mail_orchestration.kernel.statements import STATEMENTS

REMEMBERED_DAYS = 30
"""An installation that nobody opened for so long limits nobody any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedLimits:
    """What another installation says of a relay."""

    installation: str
    relay: str
    """Host and port."""
    limits: Mapping[str, Any]
    """What `Settings.relay_limits` said when that installation was last opened."""


def note_relay_limits(
    connection: Connection, installation_id: int, limits: Mapping[str, Mapping[str, Any]]
) -> None:
    """Note what an installation's settings let each relay have, by host and port, and that it was opened now."""
    connection.execute(
        STATEMENTS["note_relay_limits"],
        {"installation_id": installation_id, "relay_limits": orjson.dumps(limits).decode()},
    )


def limits_of_others(
    connection: Connection, installation: str, relays: Collection[str]
) -> list[StatedLimits]:
    """What installations other than the one of that name say of these relays."""
    if not relays:
        return []
    binds = {"installation": installation, "relays": sorted(relays), "days": REMEMBERED_DAYS}
    rows = connection.execute(STATEMENTS["find_relay_limits_of_others"], binds)
    return [StatedLimits(**row._mapping) for row in rows]

"""Whose turn it is with a worker that serves several installations (spec 6.2): the one's whose last is longest ago.

A turn is one claim, of a mail job or of a batch of loose mails. It is noted after the claim, in a transaction of its
own: nobody waits for another's, and a turn that is not noted for a crash is taken once more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, assert_never

import orjson
from sqlalchemy import Connection

from mail_orchestration.kernel.statements import STATEMENTS


class Work(StrEnum):
    """What the turns are taken for; each kind has its own."""

    MAIL_JOB = "mail_job"
    LOOSE_MAIL = "loose_mail"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownInstallation:
    """An installation of this database, as those know it who work for it elsewhere."""

    installation_id: int
    name: str
    settings: Mapping[str, Any]
    """What `Settings.for_others` said when the installation was last opened."""


def note_settings(connection: Connection, installation_id: int, settings: Mapping[str, Any]) -> None:
    """Note what those must know of an installation's settings who work for it elsewhere."""
    connection.execute(
        STATEMENTS["note_settings"],
        {"installation_id": installation_id, "settings": orjson.dumps(settings).decode()},
    )


def installations(connection: Connection, names: Collection[str] | None = None) -> list[KnownInstallation]:
    """The installations of these names that there are; with None, all of the database."""
    binds = {"names": None if names is None else sorted(names)}
    rows = connection.execute(STATEMENTS["find_installations"], binds)
    return [KnownInstallation(**row._mapping) for row in rows]


def in_turn(
    connection: Connection, installation_ids: Collection[int], work: Work, now: datetime
) -> list[int]:
    """Those of the installations that have such work, or may have: the one first whose last turn is longest ago."""
    binds: dict[str, object] = {"installation_ids": sorted(installation_ids)}
    match work:
        case Work.MAIL_JOB:
            statement = STATEMENTS["order_mail_job_turns"]
        case Work.LOOSE_MAIL:
            statement = STATEMENTS["order_loose_mail_turns"]
            binds["now"] = now
        case _:
            assert_never(work)
    return list(connection.execute(statement, binds).scalars())


def note_turn(connection: Connection, installation_id: int, work: Work) -> None:
    """An installation has its turn now, by the database's clock."""
    connection.execute(STATEMENTS["note_turn"], {"installation_id": installation_id, "work": work.value})

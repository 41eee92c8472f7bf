"""Loose mails that nobody will try again unasked: chosen, and sent after all or given up (spec 6.3, 7.3)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from mail_orchestration.dispatch.campaigns import campaign_number
from mail_orchestration.dispatch.loose_mails import ensure_delivery_log
from mail_orchestration.dispatch.repeats_at_rest import repeats_at_rest
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.kernel.loose_mail_states import LooseMailKind
from mail_orchestration.kernel.partitions import ensure_day
from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which loose mails are meant; what is None chooses all."""

    loose_mail_ids: Collection[int] | None = None
    campaign: str | None = None
    kind: LooseMailKind | None = None
    code: FailureCode | None = None

    def binds(self, connection: Connection, installation_id: int) -> dict[str, Any]:
        """As the statements want it. Raises NotFound for a campaign that is not known."""
        return {
            "installation_id": installation_id,
            "loose_mail_ids": None if self.loose_mail_ids is None else sorted(self.loose_mail_ids),
            "campaign_id": campaign_number(connection, installation_id, self.campaign),
            "kind": self.kind,
            "code": self.code,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Resubmitted:
    """What became of the loose mails that were to be sent after all."""

    numbers: list[int]
    """Those that go."""
    repeats: dict[int, datetime]
    """Those that are left since another mail, or a later release, says the same, and when that one was queued."""


def resubmit_loose_mails(
    connection: Connection, installation_id: int, chosen: Chosen, *, history: timedelta, now: datetime
) -> Resubmitted:
    """FAILED, STOPPED → QUEUED, due at once, with all attempts before them.

    SCHEDULED are retries, until a worker looks; what was never attempted before its moment; and what is of a paused
    campaign. Those of a deleted campaign stay as they are, and so do those that another mail or release repeats (see
    `repeats_at_rest`). What goes is queued anew: its history begins now. Raises NotFound for a campaign that is not
    known.
    """
    binds = chosen.binds(connection, installation_id)
    ensure_day(connection, now.astimezone(UTC).date())
    repeats = repeats_at_rest(connection, binds, history=history, now=now)
    going = {**binds, "repeats": sorted(repeats), "now": now}
    numbers = sorted(connection.scalars(STATEMENTS["resubmit_loose_mails"], going))
    return Resubmitted(numbers=numbers, repeats=repeats)


def delete_loose_mails(
    connection: Connection, installation_id: int, chosen: Chosen, *, by: str, now: datetime
) -> list[int]:
    """FAILED, STOPPED → the delivery log, which keeps who deleted them. Returns their numbers.

    Raises NotFound for a campaign that is not known.
    """
    ensure_delivery_log(connection, now)
    binds = {**chosen.binds(connection, installation_id), "by": by, "now": now}
    return sorted(connection.scalars(STATEMENTS["delete_loose_mails"], binds))

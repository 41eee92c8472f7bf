"""What is past its retention is dropped, partition by partition, while mail is delivered (spec 6.5)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType

from sqlalchemy import Connection

from mail_orchestration.dispatch.retention import (
    delete_old_records,
    give_up_day,
    longest_retention,
    try_lock_retention,
)
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.partitions import DayPartition, day_partitions, drop_partition
from mail_orchestration.kernel.retention_settings import RetentionSettings

SETTING_OF: Mapping[str, str] = MappingProxyType(
    {
        "recipient": "results_days",
        "bypass": "results_days",
        "result": "results_days",
        "place_given_back": "results_days",
        "assembled_message": "messages_days",
        "message_block": "messages_days",
        "delivery_log": "delivery_log_days",
        "held_mail_log": "delivery_log_days",
        "loose_mail_message": "messages_days",
        "queue_history": "history_days",
        "daily_mail_count": "daily_log_days",
    }
)
"""Table → the setting that says how long its partitions are kept. What is not named here is kept for ever."""
MESSAGES = frozenset({"assembled_message", "message_block"})
OF_RELEASES = frozenset({"recipient", "bypass", "result", "place_given_back"}) | MESSAGES
"""Tables whose days are those of releases, which may need them for longer."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDay:
    """A day past its retention that something needs."""

    day: date
    reason: str
    number: int


@dataclass(slots=True)
class Retained:
    """What a clean-up dropped, and what it had to leave."""

    dropped: list[DayPartition] = field(default_factory=list)
    kept: list[KeptDay] = field(default_factory=list)
    in_use: list[str] = field(default_factory=list)
    """Partitions that somebody used just then: the next clean-up drops them."""
    records: int = 0
    """Releases whose record was deleted."""


def drop_what_is_old(database: Database, installation_id: int, retention: RetentionSettings) -> Retained:
    """Drop the partitions past retention by the database's clock, and delete records of long ago.

    Partitions hold the rows of all installations: `retention` is noted as this one's, and the longest counts.
    Nothing that is needed still: see `why_day_is_kept`. What a crash left halfway is finished. Of several that clean up
    at once one drops.
    """
    with database.dedicated() as session:
        if not try_lock_retention(session):
            return Retained()
        with database.begin() as connection:
            now = database_now(connection)
            wanted, usual = retention.model_dump(), RetentionSettings().model_dump()
            days = longest_retention(connection, installation_id, wanted, usual)
        retained = _Retention(database, session, days, now).run()
        with database.begin() as connection:
            before = now.astimezone(UTC).date() - timedelta(days=days["records_days"])
            retained.records = delete_old_records(connection, before)
    return retained


class _Retention:
    """One pass over the partitions."""

    def __init__(
        self, database: Database, session: Connection, days: Mapping[str, int], now: datetime
    ) -> None:
        self._database = database
        self._session = session
        self._days = days
        self._now = now
        self._done = Retained()
        self._given_up: dict[tuple[date, bool], bool] = {}
        """Day, and whether with its results → whether nothing needs it."""

    def run(self) -> Retained:
        """Drop what may go. A table that is in use is left alone after the first of its partitions."""
        in_use: set[str] = set()
        for partition in day_partitions(self._session):
            if partition.parent in in_use or not self._may_go(partition):
                continue
            if drop_partition(self._session, partition):
                self._done.dropped.append(partition)
            else:
                in_use.add(partition.parent)
                self._done.in_use.append(partition.name)
        if self._done.dropped:
            octets = sum(each.octets for each in self._done.dropped)
            _log.info("%d partitions past retention dropped, %d octets", len(self._done.dropped), octets)
        return self._done

    def _may_go(self, partition: DayPartition) -> bool:
        if partition.is_pending or not partition.is_attached:
            return True  # That was decided before the crash, and nobody sees it any more.
        setting = SETTING_OF.get(partition.parent)
        if setting is None or partition.day >= self._today() - timedelta(days=self._days[setting]):
            return False
        if partition.parent not in OF_RELEASES:
            return True
        return self._is_given_up(partition.day, with_results=partition.parent not in MESSAGES)

    def _is_given_up(self, day: date, *, with_results: bool) -> bool:
        key = (day, with_results)
        if key not in self._given_up:
            self._given_up[key] = self._give_up(day, with_results)
        return self._given_up[key]

    def _give_up(self, day: date, with_results: bool) -> bool:
        with self._database.begin() as connection:
            reasons = give_up_day(
                connection,
                day,
                with_results=with_results,
                history_since=self._now - timedelta(days=self._days["history_days"]),
                now=self._now,
            )
        crash_point("day_given_up")
        found = [KeptDay(day=day, reason=reason, number=number) for reason, number in reasons.items()]
        self._done.kept += [each for each in found if each not in self._done.kept]
        return not reasons

    def _today(self) -> date:
        return self._now.astimezone(UTC).date()

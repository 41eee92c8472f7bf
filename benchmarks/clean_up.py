"""Dropping what is past its retention while mail is delivered, beside deleting it row by row.

    python -m benchmarks.clean_up --rows 10000000 --days 10

Fills days of long ago with so many rows, a quarter each of them recipients, results, the duplicate history and the
delivery log. Then 50 connections that wait for each result write to the results log, as a mailcaster's do, with
`--relay-ms` for the relay between two (0: results at full speed, which takes both cores of a small machine); and one
single mail after the other asks the duplicate history and enters the delivery log. Meanwhile runs the reference, DELETE
of one day; and a second time the clean-up of `mail-orchestration clean`, which drops all days. Beside the figures of
each stand those of the seconds right before it: the rate of results, the longest pause in which none became durable,
and the longest that a single mail took.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import uvloop
from sqlalchemy import text

from benchmarks.harness import command_line
from benchmarks.harness.databases import empty_database
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.old_days import TABLES, OldDays, delete_day, fill
from mail_orchestration.dispatch.queue_history import QueuedMail, remember
from mail_orchestration.feedback.results_log import ResultsLog
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.retention_settings import RetentionSettings
from mail_orchestration.maintenance.retention import drop_what_is_old

CONNECTIONS = 50
BEFORE_S = 5.0
"""How long mail is delivered before something else begins; the first second does not count."""
RETENTION = RetentionSettings(messages_days=30, results_days=30, delivery_log_days=30)
SECONDS = Target(at_most=10, of="value")
PAUSE_MS = Target(at_most=500, of="value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    rows: int = 10_000_000
    days: int = 10
    relay_ms: float = 5.0
    rounds: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """How delivery did in a span of time."""

    seconds: float
    rate: float
    """Results per second."""
    pause_ms: float
    """The longest in which no result became durable."""
    single_mail_ms: float
    """The longest that a single mail took."""


@dataclass(slots=True)
class Delivered:
    """What was delivered, by this host's steady clock."""

    durable: list[float] = field(default_factory=list)
    """When each result was."""
    single_mails: list[tuple[float, float]] = field(default_factory=list)
    """From when to when each was under way."""

    def between(self, begun: float, ended: float) -> Span:
        """A pause that lasts beyond either end counts as far as the next result."""
        first = max((at for at in self.durable if at <= begun), default=begun)
        last = min((at for at in self.durable if at >= ended), default=ended)
        within = sorted(at for at in self.durable if begun < at < ended)
        pauses = [later - at for at, later in itertools.pairwise([first, *within, last])]
        took = [end - start for start, end in self.single_mails if start < ended and end > begun]
        return Span(
            seconds=ended - begun,
            rate=len(within) / (ended - begun),
            pause_ms=1000 * max(pauses),
            single_mail_ms=1000 * max(took),
        )


def measure(sizes: Sizes) -> list[Measurement]:
    """Each round on a database of its own."""
    deleting, before, cleaning = [], [], []
    for _ in range(sizes.rounds):
        with empty_database() as database:
            old = fill(database, sizes.rows, sizes.days)
            _, span = beside_delivery(
                database, old, lambda d=database, o=old: delete_day(d, o.days[0]), sizes.relay_ms / 1000
            )
            deleting.append(span)
            first, span = beside_delivery(
                database, old, lambda d=database, o=old: clean(d, o), sizes.relay_ms / 1000
            )
            before.append(first)
            cleaning.append(span)
    return [
        Measurement(
            name=f"clean-up of {sizes.rows:,} rows of {sizes.days} days",
            unit="s",
            runs=tuple(each.seconds for each in cleaning),
            reference="DELETE of one day",
            reference_runs=tuple(each.seconds for each in deleting),
            target=SECONDS,
        ),
        *(
            Measurement(
                name=name,
                unit=unit,
                runs=tuple(figure(each) for each in cleaning),
                reference="right before it",
                reference_runs=tuple(figure(each) for each in before),
                target=target,
            )
            for name, unit, figure, target in (
                ("longest pause between two results meanwhile", "ms", attrgetter("pause_ms"), PAUSE_MS),
                ("longest single mail meanwhile", "ms", attrgetter("single_mail_ms"), PAUSE_MS),
                ("results meanwhile", "results/s", attrgetter("rate"), None),
            )
        ),
    ]


def clean(database: Database, old: OldDays) -> None:
    """Drop all of the old days, and nothing else."""
    retained = drop_what_is_old(database, old.installation_id, RETENTION)
    assert not retained.kept, retained
    assert not retained.in_use, retained
    dropped = {(each.parent, each.day) for each in retained.dropped}
    assert dropped >= {(table, day) for table in TABLES for day in old.days}, retained
    assert {day for _, day in dropped} == set(old.days), retained


def beside_delivery(
    database: Database, old: OldDays, work: Callable[[], None], relay_s: float
) -> tuple[Span, Span]:
    """Delivery before and during `work`."""
    delivered, span = Delivered(), list[float]()

    def do() -> None:
        span.append(time.perf_counter())
        work()
        span.append(time.perf_counter())

    uvloop.run(_deliver(database, old, do, delivered, relay_s))
    begun, ended = span
    return delivered.between(begun - BEFORE_S + 1, begun), delivered.between(begun, ended)


async def _deliver(
    database: Database, old: OldDays, work: Callable[[], None], delivered: Delivered, relay_s: float
) -> None:
    now = datetime.now(UTC)
    numbers, is_over = itertools.count(1), threading.Event()

    async def connection(log: ResultsLog) -> None:
        while not is_over.is_set():
            await asyncio.sleep(relay_s)
            number = next(numbers)
            result = DeliveryResult(
                message_no=number,
                contact_id=number,
                outcome=Outcome.ACCEPTED,
                reply_code=250,
                enhanced_code="2.0.0",
                reply_text=None,
                relay="relay",
                occurred_at=datetime.now(UTC),
            )
            await log.record(result)
            delivered.durable.append(time.perf_counter())

    def single_mails() -> None:
        for number in itertools.count():
            if is_over.wait(relay_s):
                return
            begun = time.perf_counter()
            send_single_mail(database, old, f"{begun} {number}")
            delivered.single_mails.append((begun, time.perf_counter()))

    async def beside() -> None:
        await asyncio.sleep(BEFORE_S)
        try:
            await asyncio.to_thread(work)
        finally:
            # Until a result has come after it.
            await asyncio.sleep(0.1)
            is_over.set()

    async with ResultsLog(
        database,
        release_id=old.mail_job_id,
        released_on=now.date(),
        mail_job_id=old.mail_job_id,
        fence=1,
    ) as log:
        await asyncio.gather(
            beside(), asyncio.to_thread(single_mails), *(connection(log) for _ in range(CONNECTIONS))
        )


def send_single_mail(database: Database, old: OldDays, occurrence: str) -> None:
    """What a single mail asks of these tables: whether it was queued lately, and a row in the delivery log."""
    now = datetime.now(UTC)
    mail = QueuedMail(
        campaign_id=old.campaign_id,
        occurrence=occurrence,
        address_key="ann@example.net",
        content_digest=b"",
    )
    with database.begin() as connection:
        assert remember(connection, old.installation_id, [mail], history=timedelta(days=7), now=now) == [True]
        connection.execute(
            text(
                "INSERT INTO delivery_log (day, loose_mail_id, installation_id, kind, campaign_id, contact_id, "
                "address, created_at, ended_at, attempts, outcome, relay) VALUES (:day, 1, :i, 'single', :c, 1, "
                "'ann@example.net', :now, :now, 1, 'accepted', 'relay')"
            ),
            {"day": now.date(), "i": old.installation_id, "c": old.campaign_id, "now": now},
        )


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(rows=50_000, days=3))

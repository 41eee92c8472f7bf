"""Many days of mail jobs in a database, written set by set: what an installation looks like after a busy quarter.

On each day one mail job has six tenths of the day's messages, one a quarter, one a tenth, and small ones of a hundred
the rest. Of a hundred messages one was deferred and accepted later, two were rejected; of a thousand one is uncertain.
Today's largest is half sent, a second one waits, and so do some small ones, retries, single mails and held mails. The
newest days have their recipients and messages too, as they have them until retention drops them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from benchmarks.frequency import POLICY
from mail_orchestration.feedback.frequency_counters import put_in_force
from mail_orchestration.feedback.frequency_figures import counted_contacts
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.frequency_in_force import policy_in_force
from mail_orchestration.kernel.statements import Statements, parse_statements

CHILD = 2000
SMALL = 100
SHARES = (0.6, 0.25, 0.1)
"""Of a day's messages, for the three largest; small ones share the rest."""
WAITING = 20
"""Small mail jobs of today that wait."""
STATEMENTS = Statements(
    parse_statements("long_history.sql", Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One mail job of the history."""

    mail_job_id: int
    day: date
    messages: int
    sent: int

    @property
    def children(self) -> int:
        return 0 if self.messages <= CHILD else -(-self.sent // CHILD)

    @property
    def recipients(self) -> int:
        """One in a hundred is bypassed."""
        return self.messages + self.messages // 100


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What was written."""

    today: date
    results: int
    largest: Job
    """Ended yesterday."""
    middle: Job
    small: Job
    under_way: Job
    """Today's largest: half of it is sent, the next child waits to be taken."""
    somebody: str
    """The address of a contact who is in the largest, and in the delivery log."""
    ended_single_mail: int
    """One that is in the delivery log."""


def plan(rows: int, days: int, today: date) -> list[Job]:
    """The mail jobs of `rows` messages in all, over so many days up to today, oldest first."""
    a_day, jobs, number = rows // days, list[Job](), 1
    for back in range(days - 1, -1, -1):
        sizes = [round(a_day * share) for share in SHARES]
        sizes += [SMALL] * max(2 * WAITING, (a_day - sum(sizes)) // SMALL)
        for place, size in enumerate(sizes):
            sent = size
            if not back and place == 0:
                sent = size // 2 // CHILD * CHILD
            elif not back and (place == 1 or place >= len(sizes) - WAITING):
                sent = 0
            jobs.append(Job(mail_job_id=number, day=today - timedelta(days=back), messages=size, sent=sent))
            number += 1 + jobs[-1].children
    return jobs


def write_history(
    database: Database, installation_id: int, *, rows: int, days: int, days_with_messages: int = 2
) -> History:
    """Fill an empty database: some ten seconds for each million rows."""
    today = datetime.now(UTC).date()
    jobs = plan(rows, days, today)
    first_with_messages = today - timedelta(days=days_with_messages - 1)
    binds = {
        "i": installation_id,
        "contacts": max(job.recipients for job in jobs),
        "child": CHILD,
        "numbers": 10 * rows,
        "first_with_messages": first_with_messages,
        "ids": [job.mail_job_id for job in jobs],
        "days": [job.day for job in jobs],
        "messages": [job.messages for job in jobs],
        "sent": [job.sent for job in jobs],
        "children": [job.children for job in jobs],
        "recipients": [job.recipients for job in jobs],
        "release_id": jobs[0].mail_job_id,
    }
    with database.dedicated() as connection:
        # The server is thrown away with its folder.
        connection.execute(text("SET synchronous_commit = off"))

        def write(*names: str, **more: object) -> None:
            for name in names:
                connection.execute(STATEMENTS[name], binds | more)

        write("insert_contacts", "insert_audiences", "insert_members", "insert_campaigns")
        write("make_counting", "make_readers", "make_plan")
        write("insert_mail_jobs", "insert_children", "update_figures", "insert_releases")
        for day in sorted({job.day for job in jobs}):
            connection.execute(text("SELECT ensure_day_partitions(:day)"), {"day": day})
            write("insert_results", "insert_second_results", "insert_delivery_log", day=day)
            write("insert_history", "insert_daily_counts", day=day)
            if day >= first_with_messages:
                write("insert_recipients", "insert_messages", "insert_blocks", day=day)
        write("insert_retries", "insert_single_mails", "insert_held_mails")
        connection.execute(
            text(
                "SELECT setval(pg_get_serial_sequence('mail_job', 'mail_job_id'), max(mail_job_id)) FROM mail_job"
            )
        )
    with database.begin() as connection:
        put_in_force(connection, installation_id, POLICY, today, datetime.now(UTC))
        in_force = policy_in_force(connection, installation_id)
        assert in_force is not None
        # As the night does.
        counted_contacts(connection, installation_id, in_force)
    with database.connect_autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))
        results = connection.scalar(text("SELECT count(*) FROM result"))
        single = connection.scalar(text("SELECT max(loose_mail_id) FROM delivery_log WHERE kind = 'single'"))
    yesterday = [job for job in jobs if job.day == today - timedelta(days=1)]
    return History(
        today=today,
        results=int(results or 0),
        largest=yesterday[0],
        middle=yesterday[2],
        small=yesterday[-1],
        under_way=next(job for job in jobs if job.day == today),
        somebody=f"r{yesterday[0].messages // 125 * 100 + 1}@example.net",
        ended_single_mail=int(single or 0),
    )

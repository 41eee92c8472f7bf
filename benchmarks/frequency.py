"""The frequency gate beside the dedup of the same release, and the nightly count beside a plain GROUP BY of its log.

    python -m benchmarks.frequency --contacts 1000000 --rounds 3

Each round fills two audiences, of `--contacts` and of half as many that are all in the first, and resolves releases to
both under a policy of four rules: whose counters are not there yet, whose counters are, and to whom everybody is held.
The gate is timed inside the transaction that dedup began; the reference is the rest of it. Then what was held goes in a
later release; the reference is a plain INSERT … SELECT of as many rows into a table like the log, without indexes.
Then 90 days of log are written, on each of which `--share` of the contacts got a mail, and it becomes the next day: the
last day is closed from its results, and the windows are counted anew. The reference is `SELECT contact_id, sum(mails) …
GROUP BY contact_id` over the same log with as much memory. At last a mail waits for everybody again, and it is decided
which of them go, by the policy's rules and by as many of the campaign's own, for which that log is added up; the
reference is dedup. Targets: each ratio of gate, close and count at most 2.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from unittest.mock import patch

import orjson
from sqlalchemy import Connection, text

from benchmarks.harness import command_line
from benchmarks.harness.databases import empty_database
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.import_and_dedup import NOW, make_release, timed
from mail_orchestration.audience import resolving
from mail_orchestration.audience.frequency_gate import pass_frequency_gate
from mail_orchestration.audience.importing import ensure_audience, ensure_installation
from mail_orchestration.dispatch import later_releases
from mail_orchestration.feedback.daily_counts import close_day
from mail_orchestration.feedback.frequency_counters import count_anew, put_in_force
from mail_orchestration.frequency.releasing import release_held
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.frequency import Policy, Rule, Window
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.kernel.tokens import SigningKeys

POLICY = Policy(
    rules=(Rule(2, 1), Rule(2, 7), Rule(8, 30), Rule(20, 90)),
    window=Window.ROLLING,
    hold=True,
    count=True,
    shelf_life_days=7,
)
DAYS = 90
TODAY = NOW.date()
ZONE = Settings().zone
MOST = 2.0
CASES = ("counters are made", "counters are there", "everybody is held")
CHOICES = ("held mails are chosen by the policy's rules", "held mails are chosen by own rules")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    contacts: int = 1_000_000
    share: float = 0.1
    """Of the contacts got a mail on each day of the log."""
    rounds: int = 3


def measure(sizes: Sizes) -> list[Measurement]:
    """Each round on a database of its own."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(sizes.rounds):
        with empty_database() as database:
            with database.begin() as connection:
                installation_id = ensure_installation(connection, f"benchmark {time.time_ns()}")
            steps = gates(database, installation_id, sizes.contacts)
            steps |= release_of_held(database, installation_id, sizes.contacts)
            steps |= night(database, installation_id, sizes.contacts, sizes.share)
            steps |= choices(database, installation_id, sizes.contacts)
        for step, took in steps.items():
            seconds[step].append(took)
    seconds["close and count"] = [sum(each) for each in zip(seconds["close"], seconds["count"], strict=True)]
    pairs = [(f"gate, {case}", f"dedup, {case}", "dedup of the same release", MOST) for case in CASES] + [
        ("count", "plain GROUP BY", "plain `GROUP BY` of the log", MOST),
        ("close and count", "plain GROUP BY", "plain `GROUP BY` of the log", MOST),
        ("release of held mails", "plain copy of held mails", "plain copy without indexes", None),
        *((choice, f"dedup, {CASES[1]}", "dedup of as many", None) for choice in CHOICES),
    ]
    return [
        Measurement(
            name=f"frequency policy: {step}",
            unit="s",
            runs=tuple(seconds[step]),
            reference=reference,
            reference_runs=tuple(seconds[beside]),
            target=Target(at_most=most) if most is not None else None,
        )
        for step, beside, reference, most in pairs
    ]


def gates(database: Database, installation_id: int, contacts: int) -> dict[str, float]:
    """Seconds of the gate and of all the rest, for each case."""
    with database.begin() as connection:
        fill(connection, installation_id, contacts)
        put_in_force(connection, installation_id, POLICY, TODAY, NOW)
    settle(database)
    took = {}
    for case in CASES:
        gate = 0.0

        def timed_gate(*arguments: object) -> None:
            nonlocal gate
            gate = timed(lambda: pass_frequency_gate(*arguments))  # type: ignore[arg-type]

        release_id, _ = make_release(database, installation_id)
        resolving.pass_frequency_gate = timed_gate
        whole = timed(
            lambda number=release_id: resolving.resolve_recipients(
                database, number, small_audience_threshold=100, time_zone=ZONE, now=NOW
            )
        )
        took[f"gate, {case}"], took[f"dedup, {case}"] = gate, whole - gate
        settle(database)
    with database.begin() as connection:
        places, held = connection.execute(
            text("SELECT (SELECT sum(places) FROM frequency_counter), (SELECT count(*) FROM held_mail)")
        ).one()
    assert (places, held) == (2 * contacts, contacts), (places, held)
    return took


def fill(connection: Connection, installation_id: int, contacts: int) -> None:
    """Two audiences, the second of half the contacts of the first."""
    connection.execute(
        text(
            "INSERT INTO contact (installation_id, address, address_key) "
            "SELECT :i, 'r' || n || '@example.com', 'r' || n || '@example.com' FROM generate_series(1, :n) AS n"
        ),
        {"i": installation_id, "n": contacts},
    )
    for name, most in (("full", contacts), ("half", contacts // 2)):
        connection.execute(
            text(
                "INSERT INTO audience_member (audience_id, contact_id, import_id) "
                "SELECT :a, contact_id, 1 FROM contact WHERE installation_id = :i ORDER BY contact_id LIMIT :n"
            ),
            {"a": ensure_audience(connection, installation_id, name), "i": installation_id, "n": most},
        )


def release_of_held(database: Database, installation_id: int, contacts: int) -> dict[str, float]:
    """Seconds of letting go what the gate held, and of copying as many rows into a table like the log of held mails."""
    held = (
        "SELECT CAST(:day AS date), h.*, CAST(NULL AS timestamptz), 'deleted', NULL, '' FROM held_mail AS h"
    )
    with database.begin() as connection:
        # The releases that they were held in went out, and the mails of that day are in no window any more.
        finished = "UPDATE mail_job SET state = 'FINISHED', queued_at = :at, ended_at = :at"
        connection.execute(text(finished), {"at": NOW})
        connection.execute(text("UPDATE frequency_counter SET places = 0"))
        connection.execute(text("CREATE TABLE copied (LIKE held_mail_log)"))
        connection.execute(text("ALTER TABLE copied ALTER ended_at DROP NOT NULL"))
    settle(database)

    def plain() -> None:
        with database.begin() as connection:
            rows = connection.execute(text(f"INSERT INTO copied {held}"), {"day": TODAY}).rowcount
            assert rows == contacts, rows

    took = {"plain copy of held mails": timed(plain)}
    with database.begin() as connection:
        connection.execute(text("DROP TABLE copied"))
    inst = installation(database, installation_id)

    def release() -> None:
        released = release_held(inst, now=NOW)
        assert released.mails == contacts, released

    took["release of held mails"] = timed(release)
    return took


def installation(database: Database, installation_id: int) -> Installation:
    """The installation whose mails are held."""
    return Installation(
        settings=Settings(),
        database=database,
        installation_id=installation_id,
        keys=SigningKeys({"t1": bytes(32)}),
    )


def choices(database: Database, installation_id: int, contacts: int) -> dict[str, float]:
    """Seconds until it is decided which held mails go, all of one release without rules, then with its own."""
    with database.begin() as connection:
        rows = connection.execute(
            text(
                "INSERT INTO held_mail (installation_id, contact_id, campaign_id, release_id, audience_id, priority, "
                "held_at, expires_at, max_mails, days) "
                "SELECT :i, c.contact_id, r.campaign_id, r.release_id, r.audience_ids[1], 0, :at, "
                "CAST(:at AS timestamptz) + interval '7 days', 2, 1 FROM contact AS c CROSS JOIN release AS r "
                "WHERE c.installation_id = :i AND r.release_id = (SELECT min(release_id) FROM mail_job "
                "WHERE installation_id = :i) ORDER BY c.contact_id"
            ),
            {"i": installation_id, "at": NOW},
        ).rowcount
        assert rows == contacts, rows
    settle(database)
    inst, rules, took = installation(database, installation_id), None, {}
    for choice in CHOICES:
        with database.begin() as connection:
            connection.execute(
                text("UPDATE release SET frequency_rules = CAST(:rules AS jsonb)"), {"rules": rules}
            )
        took[choice] = timed(lambda: choose(inst))
        rules = orjson.dumps(POLICY.rules).decode()
    return took


class Chosen(Exception):
    """It is decided, and the rest is not to happen."""


def choose(inst: Installation) -> None:
    """The release of held mails until it is decided which go; then all of it is taken back."""

    def crash_point(name: str) -> None:
        if name == "held_mails_chosen":
            raise Chosen

    with suppress(Chosen), patch.object(later_releases, "crash_point", crash_point):
        release_held(inst, now=NOW)


def night(database: Database, installation_id: int, contacts: int, share: float) -> dict[str, float]:
    """Seconds of the close of a day, of counting anew, and of the plain GROUP BY."""
    yesterday = TODAY - timedelta(days=1)
    log = (
        "SELECT contact_id, sum(mails) FROM daily_mail_count WHERE installation_id = :i AND day >= :day "
        "GROUP BY contact_id"
    )
    with database.begin() as connection:
        connection.execute(text("TRUNCATE frequency_counter, held_mail"))
        for back in range(2, DAYS + 3):
            day = TODAY - timedelta(days=back)
            connection.execute(text("SELECT ensure_day_partitions(:day)"), {"day": day})
            connection.execute(
                text(
                    "INSERT INTO daily_mail_count (day, installation_id, contact_id, mails, placed) "
                    "SELECT :day, :i, contact_id, 1, 1 FROM contact WHERE installation_id = :i "
                    "AND abs(hashint8extended(contact_id, :seed)) % 1000 < :per_mille"
                ),
                {"day": day, "i": installation_id, "seed": back, "per_mille": round(share * 1000)},
            )
    with database.begin() as connection:
        put_in_force(connection, installation_id, POLICY, yesterday, NOW)
        connection.execute(text("UPDATE frequency_policy SET counted_for = :day"), {"day": yesterday})
        connection.execute(text("SELECT ensure_day_partitions(:day)"), {"day": yesterday})
        arrived(connection, installation_id, NOW - timedelta(days=1), round(share * 1000))
    settle(database)
    took = {"close": timed(lambda: close_day(database, installation_id, yesterday, ZONE, NOW))}
    settle(database)
    took["count"] = timed(lambda: count_anew(database, installation_id, TODAY))

    def plain() -> None:
        with database.begin() as connection:
            connection.execute(text("SET LOCAL work_mem = '48MB'"))
            first = TODAY - timedelta(days=DAYS)
            rows = connection.scalar(
                text(f"SELECT count(*) FROM ({log}) AS grouped"), {"i": installation_id, "day": first}
            )
            assert rows, rows

    took["plain GROUP BY"] = timed(plain)
    return took


def arrived(connection: Connection, installation_id: int, at: object, per_mille: int) -> None:
    """Results of the first release, for this share of its recipients."""
    connection.execute(
        text(
            "INSERT INTO result (released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, "
            "relay) SELECT p.released_on, p.release_id, p.recipient_no, p.release_id, p.contact_id, :at, 'accepted', "
            "'relay' "
            "FROM recipient AS p WHERE p.release_id = (SELECT min(j.release_id) FROM mail_job AS j "
            "WHERE j.installation_id = :i) AND abs(hashint8extended(p.contact_id, 1)) % 1000 < :per_mille"
        ),
        {"i": installation_id, "at": at, "per_mille": per_mille},
    )


def settle(database: Database) -> None:
    """What autovacuum and the checkpointer would do at any moment, in the middle of one measurement or the other."""
    with database.connect_autocommit() as connection:
        connection.execute(
            text(
                "VACUUM ANALYZE contact, audience_member, held_mail, frequency_counter, daily_mail_count, result"
            )
        )
        connection.execute(text("CHECKPOINT"))


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(contacts=3_000, rounds=1))

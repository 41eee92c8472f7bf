"""Import of a CSV, and dedup of overlapping audiences, beside the bare SQL that does no more than the work itself.

    python -m benchmarks.import_and_dedup --contacts 1000000 --rounds 3

Each round imports a list of `--contacts` rows (an address and three columns) into an empty installation, then one of
half as many that are all in the first; then it resolves a release to both, and a second one of the same content, whose
recipients are all duplicates of the first's (spec 6.6).

The reference of the import is COPY of the same file into a temporary table, then `INSERT … SELECT` from there to tables
like `contact` and `audience_member` with the same indexes: it reads no encoding, validates no address and keeps no line
number. The reference of dedup is the bare `INSERT … SELECT DISTINCT ON` over the same rows into a table like
`recipient`, with a key of the same width.
"""

from __future__ import annotations

import hashlib
import resource
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text

from benchmarks.harness import command_line
from benchmarks.harness.databases import empty_database, own_folder
from benchmarks.harness.measurements import Measurement, Target
from mail_orchestration.audience.importing import ensure_installation, import_audience
from mail_orchestration.audience.resolving import resolve_recipients
from mail_orchestration.audience.sources import CsvSource
from mail_orchestration.kernel.database import Database

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
MOST = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    contacts: int = 1_000_000
    rounds: int = 3


def measure(sizes: Sizes) -> list[Measurement]:
    """Each round on an installation of its own."""
    seconds: dict[str, list[float]] = defaultdict(list)
    with own_folder() as folder:
        full, half = folder / "full.csv", folder / "half.csv"
        write_list(full, sizes.contacts)
        write_list(half, sizes.contacts // 2)
        for _ in range(sizes.rounds):
            with empty_database() as database:
                for step, took in one_round(database, full, half, sizes.contacts).items():
                    seconds[step].append(took)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    at_most = Target(at_most=MOST)
    return [
        _compared(seconds, f"import of {sizes.contacts:,} new contacts", "import", "bare import", at_most),
        _compared(seconds, "import of half as many, all known", "again", "bare import again", at_most),
        _compared(seconds, f"dedup, verify and filter of {sizes.contacts:,}", "dedup", "bare dedup", at_most),
        _compared(seconds, "the same again, all duplicates", "duplicates", "bare dedup", None),
        Measurement(
            name="memory of the process that imports",
            unit="MB",
            runs=(peak,),
            reference="the limit",
            reference_runs=(300,),
            target=Target(at_most=1.0),
            goal=4,
        ),
    ]


def _compared(
    seconds: dict[str, list[float]], name: str, step: str, bare: str, target: Target | None
) -> Measurement:
    return Measurement(
        name=name,
        unit="s",
        runs=tuple(seconds[step]),
        reference="the bare SQL",
        reference_runs=tuple(seconds[bare]),
        target=target,
        goal=3,
    )


def write_list(path: Path, contacts: int) -> None:
    """Addresses in no order, as lists are."""
    with path.open("w", encoding="utf-8") as file:
        file.write("email,first_name,last_name,city\n")
        for n in range(contacts):
            key = hashlib.sha256(str(n).encode()).hexdigest()[:12]
            file.write(f"{key}@mail{n % 40}.example.com,Anna {n},Müller,Köln\n")


def one_round(database: Database, full: Path, half: Path, contacts: int) -> dict[str, float]:
    """Seconds of each step, on an installation of its own."""
    with database.begin() as connection:
        installation_id = ensure_installation(connection, f"benchmark {time.time_ns()}")

    def fill(name: str, path: Path, expected: int) -> None:
        summary = import_audience(database, installation_id, name, CsvSource(path=path), now=NOW)
        assert summary.rows_accepted == expected, summary

    took = bare_imports(database, full, half)
    took["import"] = timed(lambda: fill("full", full, contacts))
    took["again"] = timed(lambda: fill("half", half, contacts // 2))
    with database.connect_autocommit() as connection:
        # As autovacuum would do at any moment, in the middle of one measurement or the other.
        connection.execute(text("VACUUM ANALYZE contact, audience_member"))
        connection.execute(text("CHECKPOINT"))
    release_id, audience_ids = make_release(database, installation_id)
    second, _ = make_release(database, installation_id)
    took["bare dedup"] = bare_dedup(database, audience_ids, contacts)

    def resolve(number: int, bypassed: dict[str, int]) -> None:
        summary = resolve_recipients(
            database,
            number,
            small_audience_threshold=100,
            history=timedelta(days=7),
            time_zone=ZoneInfo("UTC"),
            now=NOW,
        )
        assert (summary.recipients, summary.duplicates) == (contacts, contacts // 2), summary
        assert summary.bypassed == bypassed, summary

    took["dedup"] = timed(lambda: resolve(release_id, {}))
    took["duplicates"] = timed(lambda: resolve(second, {"duplicate": contacts}))
    return took


def bare_imports(database: Database, full: Path, half: Path) -> dict[str, float]:
    """The least that both imports could be."""
    with database.begin() as connection:
        for table in ("contact", "audience_member"):
            connection.execute(text(f"CREATE TABLE bare_{table} (LIKE {table} INCLUDING ALL)"))

    def fill(path: Path, audience_id: int) -> None:
        with database.begin() as connection:
            bare_import(connection, path, audience_id)

    took = {
        "bare import": timed(lambda: fill(full, 1)),
        "bare import again": timed(lambda: fill(half, 2)),
    }
    with database.begin() as connection:
        connection.execute(text("DROP TABLE bare_contact, bare_audience_member"))
    return took


def bare_import(connection: Connection, path: Path, audience_id: int) -> None:
    columns = "email text, first_name text, last_name text, city text"
    connection.execute(text(f"CREATE TEMPORARY TABLE raw ({columns}) ON COMMIT DROP"))
    driver = connection.connection.driver_connection
    assert driver is not None
    with (
        path.open("rb") as file,
        driver.cursor() as cursor,
        cursor.copy("COPY raw FROM STDIN (FORMAT csv, HEADER)") as copy,
    ):
        while block := file.read(1 << 16):
            copy.write(block)
    connection.execute(
        text(
            "INSERT INTO bare_contact (installation_id, address, address_key) SELECT 1, email, lower(email) FROM raw "
            "ON CONFLICT (installation_id, address_key) DO NOTHING"
        )
    )
    connection.execute(text("ANALYZE raw"))
    connection.execute(text("ANALYZE bare_contact"))
    connection.execute(
        text(
            "INSERT INTO bare_audience_member (audience_id, contact_id, attributes, import_id) "
            "SELECT CAST(:a AS integer), contact_id, "
            "json_build_object('first_name', first_name, 'last_name', last_name, 'city', city), 1 "
            "FROM raw JOIN bare_contact ON address_key = lower(email) AND installation_id = 1"
        ),
        {"a": audience_id},
    )


def make_release(database: Database, installation_id: int) -> tuple[int, list[int]]:
    """A release to both audiences, straight into the tables."""
    with database.begin() as connection:
        key = {"i": installation_id, "now": NOW, "day": NOW.date()}
        connection.execute(text("SELECT ensure_day_partitions(:day)"), key)
        audience_ids = list(
            connection.scalars(
                text("SELECT audience_id FROM audience WHERE installation_id = :i ORDER BY 1"), key
            )
        )
        release_id = connection.scalars(
            text(
                "INSERT INTO mail_job (release_id, installation_id, state) VALUES (0, :i, 'QUEUING') "
                "RETURNING mail_job_id"
            ),
            key,
        ).one()
        connection.execute(text("UPDATE mail_job SET release_id = mail_job_id WHERE release_id = 0"))
        connection.execute(
            text(
                "WITH c AS (INSERT INTO campaign (installation_id, name, digest) VALUES (:i, 'x', '') "
                "ON CONFLICT (installation_id, name) DO UPDATE SET digest = '' RETURNING campaign_id) "
                "INSERT INTO release (release_id, campaign_id, released_at, released_on, files, digest, "
                "content_digest, audience_ids) "
                "SELECT :r, campaign_id, :now, :day, '{}', '', '', :a FROM c"
            ),
            {**key, "r": release_id, "a": audience_ids},
        )
    return release_id, audience_ids


def bare_dedup(database: Database, audience_ids: list[int], contacts: int) -> float:
    """The least that dedup could be: the statement alone, into such a table as `recipient` is."""
    with database.begin() as connection:
        connection.execute(
            text("CREATE TABLE bare (LIKE recipient, PRIMARY KEY (release_id, contact_id, released_on))")
        )
    statement = text(
        "INSERT INTO bare SELECT DISTINCT ON (contact_id) CAST(:day AS date), 1, 0, audience_id, contact_id "
        "FROM audience_member "
        "WHERE audience_id = ANY(:a) ORDER BY contact_id, array_position(:a, audience_id)"
    )

    def insert() -> None:
        with database.begin() as connection:
            connection.execute(text("SET LOCAL work_mem = '48MB'"))
            assert connection.execute(statement, {"a": audience_ids, "day": NOW.date()}).rowcount == contacts

    took = timed(insert)
    with database.begin() as connection:
        connection.execute(text("DROP TABLE bare"))
    return took


def timed(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(contacts=5_000, rounds=1))

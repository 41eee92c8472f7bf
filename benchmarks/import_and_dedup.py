"""Import of a CSV, and dedup of overlapping audiences beside a bare `INSERT … SELECT DISTINCT ON`.

    python -m benchmarks.import_and_dedup --contacts 1000000 --rounds 3

Each round imports a list of `--contacts` rows (an address and three columns) into an empty installation, then one of
half as many that are all in the first; then it resolves a release to both, and a second one of the same content, whose
recipients are all duplicates of the first's (spec 6.6). The reference is the bare statement over the
same rows into a table like `recipient`, with a key of the same width, in the same round. Targets: 100,000 rows/s, a
ratio of at most 1.5, and less than 300 MB. Printed are the medians, then JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import text

from mail_orchestration.audience.importing import ensure_installation, import_audience
from mail_orchestration.audience.resolving import resolve_recipients
from mail_orchestration.audience.sources import CsvSource
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.migrations import migrate

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--contacts", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    seconds: dict[str, list[float]] = {"import": [], "again": [], "dedup": [], "bare": [], "duplicates": []}
    with tempfile.TemporaryDirectory(prefix="mo-bench-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        full, half = folder / "full.csv", folder / "half.csv"
        write_list(full, chosen.contacts)
        write_list(half, chosen.contacts // 2)
        for number in range(chosen.rounds):
            server = folder / str(number)
            server.mkdir(mode=0o711)
            with Database.open(
                os.environ.get("DATABASE_URL"), server, application_name="benchmark"
            ) as database:
                for step, took in one_round(database, full, half, chosen.contacts).items():
                    seconds[step].append(took)
    tell(chosen.contacts, {step: statistics.median(each) for step, each in seconds.items()}, chosen.rounds)


def write_list(path: Path, contacts: int) -> None:
    """Addresses in no order, as lists are."""
    with path.open("w", encoding="utf-8") as file:
        file.write("email,first_name,last_name,city\n")
        for n in range(contacts):
            key = hashlib.sha256(str(n).encode()).hexdigest()[:12]
            file.write(f"{key}@mail{n % 40}.example.com,Anna {n},Müller,Köln\n")


def one_round(database: Database, full: Path, half: Path, contacts: int) -> dict[str, float]:
    """Seconds of each step, on an installation of its own."""
    migrate(database)
    with database.begin() as connection:
        installation_id = ensure_installation(connection, f"benchmark {time.time_ns()}")

    def fill(name: str, path: Path, expected: int) -> None:
        summary = import_audience(database, installation_id, name, CsvSource(path=path), now=NOW)
        assert summary.rows_accepted == expected, summary

    took = {
        "import": timed(lambda: fill("full", full, contacts)),
        "again": timed(lambda: fill("half", half, contacts // 2)),
    }
    with database.connect_autocommit() as connection:
        # As autovacuum would do at any moment, in the middle of one measurement or the other.
        connection.execute(text("VACUUM ANALYZE contact, audience_member"))
        connection.execute(text("CHECKPOINT"))
    release_id, audience_ids = make_release(database, installation_id)
    second, _ = make_release(database, installation_id)
    took["bare"] = bare_dedup(database, audience_ids, contacts)

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


def tell(contacts: int, median: dict[str, float], rounds: int) -> None:
    figures = {
        "contacts": contacts,
        "rounds": rounds,
        "import_rows_per_second": round(contacts / median["import"]),
        "import_known_contacts_rows_per_second": round(contacts // 2 / median["again"]),
        "dedup_rows_per_second": round(contacts * 1.5 / median["dedup"]),
        "duplicates_rows_per_second": round(contacts * 1.5 / median["duplicates"]),
        "bare_rows_per_second": round(contacts * 1.5 / median["bare"]),
        "dedup_ratio_to_bare": round(median["dedup"] / median["bare"], 2),
        "peak_memory_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(f"import of new contacts   {figures['import_rows_per_second']:>9,} rows/s")
    print(f"import of known contacts {figures['import_known_contacts_rows_per_second']:>9,} rows/s")
    print(f"dedup, verify, filter    {figures['dedup_rows_per_second']:>9,} rows/s")
    print(f"the same, all duplicates {figures['duplicates_rows_per_second']:>9,} rows/s")
    print(
        f"bare DISTINCT ON         {figures['bare_rows_per_second']:>9,} rows/s; ratio {figures['dedup_ratio_to_bare']}"
    )
    print(f"peak memory              {figures['peak_memory_megabytes']:>9,} MB")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""The hot statements of dispatch use their indexes, with many ended mail jobs and results in the tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.statements import STATEMENTS
from tests.integration.dispatch_rows import DAY, NOW, World

ENDED = 10_000
RESULTS = 20_000


@pytest.fixture
def world(database: Database) -> World:
    """10,000 ended mail jobs, a few live ones, and results of two releases on three days' partitions."""
    made = World(database)
    live = made.queue(RESULTS, kind="parent")
    made.add_messages(live, RESULTS)
    made.deliver(made.claim_of(made.begun(5, kind="small")))
    made.queue(10, kind="small")
    made.execute(
        "WITH ended AS (INSERT INTO mail_job (release_id, installation_id, kind, state, queued_at, ended_at, "
        "    first_message, last_message) "
        "  SELECT 0, :installation_id, 'small', 'FINISHED', :now, :now, 1, 10 FROM generate_series(1, :count) "
        "  RETURNING mail_job_id) "
        "INSERT INTO release (release_id, campaign_id, released_at, released_on, files, digest, content_digest, "
        "  audience_ids) "
        "SELECT mail_job_id, :campaign_id, :now, :day, '{}', '', '', '{}' FROM ended",
        installation_id=made.installation_id,
        campaign_id=made.campaign_id,
        now=NOW,
        day=DAY,
        count=ENDED,
    )
    made.execute("UPDATE mail_job SET release_id = mail_job_id WHERE release_id = 0")
    for days in (-1, 1):
        made.execute("SELECT ensure_day_partitions(:day)", day=DAY + timedelta(days=days))
    made.execute(
        "INSERT INTO result "
        "  (released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, relay) "
        "SELECT CAST(:day AS date), release_id, n, release_id, n, :now, 'accepted', 'r' "
        "FROM generate_series(1, CAST(:half AS integer)) AS n, (VALUES (:live), (-1)) AS r (release_id)",
        day=DAY,
        now=NOW,
        half=RESULTS // 2,
        live=live,
    )
    with database.connect_autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return made


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def explain(world: World, name: str, *, analyze: bool = True, **binds: object) -> list[Mapping[str, Any]]:
    with world.database.begin() as connection:
        options = "ANALYZE, FORMAT JSON" if analyze else "FORMAT JSON"
        explained = text(f"EXPLAIN ({options}) {STATEMENTS[name].text}")
        plan = connection.execute(explained, binds).scalar_one()
        connection.rollback()
    return list(nodes(plan[0]["Plan"]))


def scans(plan: list[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Index (or 'Seq Scan') by which each table is read."""
    found: dict[str, set[str]] = {}
    for node in plan:
        if "Index Name" in node and "Relation Name" in node:
            found.setdefault(node["Relation Name"], set()).add(node["Index Name"])
        elif node["Node Type"] == "Seq Scan":
            found.setdefault(node["Relation Name"], set()).add("Seq Scan")
    return found


BIG = re.compile(r"(result|assembled_message|message_block)_\d+")
SEARCHES: dict[str, dict[str, object]] = {
    "claim_small": {"mailcaster": "m"},
    "find_assigning_parent": {},
    "find_queued_parent": {},
    "find_restarted": {"kind": "child", "passed_over": []},
    "find_hanging": {"kind": "small", "passed_over": [], "hung_before": NOW},
    "find_waiting_work": {"hung_before": NOW},
}


def queue_ended_for_a_neighbour(world: World) -> int:
    """Make the 10,000 ended mail jobs wait, as those of another installation: its number."""
    with world.database.begin() as connection:
        neighbour = connection.scalar(
            text("INSERT INTO installation (name) VALUES ('neighbour') RETURNING installation_id")
        )
        connection.execute(
            text(
                "UPDATE mail_job SET state = 'QUEUED', ended_at = NULL, installation_id = :neighbour "
                "WHERE state = 'FINISHED'"
            ),
            {"neighbour": neighbour},
        )
    with world.database.connect_autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE mail_job"))
    return int(neighbour)


@pytest.mark.rule("6.2")
def test_whose_turn_it_is_is_found_without_reading_what_waits(world: World) -> None:
    both = [world.installation_id, queue_ended_for_a_neighbour(world)]
    plan = explain(world, "order_mail_job_turns", installation_ids=both)
    assert scans(plan)["mail_job"] == {"mail_job_to_take"}
    read = [node for node in plan if node.get("Relation Name") == "mail_job"]
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in read) <= 2


@pytest.mark.rule("4.6")
@pytest.mark.parametrize("neighbour", ["none", "with thousands waiting"])
def test_searches_read_live_mail_jobs_of_their_installation_only(world: World, neighbour: str) -> None:
    if neighbour != "none":
        queue_ended_for_a_neighbour(world)
    for name, binds in SEARCHES.items():
        plan = explain(world, name, installation_id=world.installation_id, now=NOW, only=None, **binds)
        read = scans(plan)
        assert read["mail_job"] <= {"mail_job_to_take", "mail_job_pkey"}, name
        assert read.get("release", set()) <= {"release_pkey"}, name
        rows = sum(
            (node.get("Actual Rows", 0) + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in plan
            if node.get("Relation Name") in ("mail_job", "release")
        )
        assert rows < 50, name


@pytest.mark.rule("4.6")
def test_many_waiting_mail_jobs_are_not_all_read_to_find_the_first(world: World) -> None:
    world.execute("UPDATE mail_job SET state = 'QUEUED', ended_at = NULL WHERE state = 'FINISHED'")
    with world.database.connect_autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE mail_job"))
    for name in ("claim_small", "find_waiting_work"):
        plan = explain(
            world, name, installation_id=world.installation_id, now=NOW, only=None, **SEARCHES[name]
        )
        read = sum(
            node["Actual Rows"] * node["Actual Loops"]
            for node in plan
            if node.get("Relation Name") == "mail_job"
        )
        assert read < 50, name


@pytest.mark.rule("5.1")
@pytest.mark.parametrize("name", ["find_unsent", "count_unsent", "read_blocks"])
def test_what_is_unsent_is_read_from_one_partition_by_its_indexes(world: World, name: str) -> None:
    release_id = _live(world)
    binds: dict[str, object] = {"released_on": DAY, "release_id": release_id}
    if name == "read_blocks":
        binds |= {"first_messages": list(range(9_901, 10_400, 64))}
    elif name == "find_unsent":
        binds |= {"after": 9_900, "up_to": 10_400, "most": 500}
    else:
        binds |= {"first_message": 9_901, "last_message": 10_400}
    plan = explain(world, name, **binds)
    read = scans(plan)
    day = f"{DAY:%Y%m%d}"
    big = {table: by for table, by in read.items() if BIG.match(table)}
    assert set(big) <= {f"result_{day}", f"assembled_message_{day}", f"message_block_{day}"}
    assert (f"message_block_{day}" if name == "read_blocks" else f"result_{day}") in big
    assert "Seq Scan" not in set().union(*big.values())
    for node in plan:
        if node.get("Relation Name") in big:
            assert node["Actual Rows"] * node["Actual Loops"] <= 500


@pytest.mark.rule("5.1")
def test_one_partition_is_read_by_a_prepared_plan_too(world: World) -> None:
    """A plan that is made without knowing the binds prunes when it is run."""
    with world.database.begin() as connection:
        connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        compiled = STATEMENTS["find_unsent"].text
        for number, bind in enumerate(("release_id", "released_on", "after", "up_to", "most"), start=1):
            compiled = compiled.replace(f":{bind}", f"${number}")
        connection.exec_driver_sql(f"PREPARE unsent AS {compiled}")
        explained = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE unsent ({_live(world)}, '{DAY}', 9900, 10400, 500)"
        ).scalar_one()
    plan = list(nodes(explained[0]["Plan"]))
    touched = {
        node["Relation Name"]
        for node in plan
        if re.match(r"(result|assembled_message)_", node.get("Relation Name", "")) and node["Actual Loops"]
    }
    assert touched == {f"result_{DAY:%Y%m%d}", f"assembled_message_{DAY:%Y%m%d}"}
    assert "Seq Scan" not in {node["Node Type"] for node in plan if node.get("Relation Name") in touched}


@pytest.mark.rule("5.7")
def test_what_is_uncertain_is_found_without_reading_the_other_results(world: World) -> None:
    world.execute("UPDATE result SET outcome = 'uncertain' WHERE message_no IN (5, 4000)")
    with world.database.connect_autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE result"))
    binds: dict[str, object] = {"released_on": DAY, "release_id": _live(world), "most_attempts": 5}
    find = explain(world, "find_uncertain", **binds, after=0, up_to=10_000, most=100)
    count = explain(world, "count_uncertain", **binds, first_message=1, last_message=10_000)
    for plan in (find, count):
        results = [node for node in plan if node.get("Relation Name") == f"result_{DAY:%Y%m%d}"]
        assert results
        assert "Seq Scan" not in {node["Node Type"] for node in results}
        assert sum(node["Actual Rows"] * node["Actual Loops"] for node in results) <= 10


@pytest.mark.rule("4.6")
def test_a_heartbeat_changes_no_index(world: World) -> None:
    """Heartbeats and progress are updates of the row alone (HOT), so that the index of what to take stays small."""
    mail_job_id = world.begun(50, kind="small")
    held = {"mail_job_id": mail_job_id, "fence": 1}
    counted = text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'mail_job'")
    with world.database.begin() as connection:
        before = connection.execute(counted).one()
        for _ in range(5):
            connection.execute(STATEMENTS["beat_heart"], held | {"now": NOW}).one()
            connection.execute(STATEMENTS["record_progress"], held | dict.fromkeys(_FIGURES, 1)).one()
        after = connection.execute(counted).one()
    assert [now - then for now, then in zip(after, before, strict=True)] == [10, 10]


_FIGURES = ("accepted", "deferred", "rejected", "uncertain", "stopped")


def _live(world: World) -> int:
    with world.database.begin() as connection:
        return int(connection.scalar(text("SELECT mail_job_id FROM mail_job WHERE state = 'P_QUEUED'")))

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from mail_orchestration.audience.handover import recipients_to_assemble
from mail_orchestration.audience.importing import ensure_audience, ensure_installation
from mail_orchestration.audience.resolving import ResolveSummary, mark_interrupted, resolve_recipients
from mail_orchestration.audience.suppressing import suppress_address
from mail_orchestration.kernel.components import Component
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import ComponentFailed, DatabaseUnavailable, NotFound, StateConflict
from mail_orchestration.kernel.model import BodyFormat, Bypass, Recipient

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
DAY = date(2026, 3, 2)


class World:
    """An installation with audiences and releases, written straight into the tables."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.begin() as connection:
            self.installation_id = ensure_installation(connection, "main")
            connection.execute(text("SELECT ensure_day_partitions(:day)"), {"day": DAY})

    def audience(self, name: str, *members: str | tuple[str, dict[str, Any]], **shared: Any) -> int:
        insert = text(
            "WITH c AS (INSERT INTO contact (installation_id, address, address_key) "
            "VALUES (:installation_id, :address, :address) "
            "ON CONFLICT (installation_id, address_key) DO UPDATE SET address = contact.address RETURNING contact_id) "
            "INSERT INTO audience_member "
            "SELECT :audience_id, contact_id, :body_format, :locale, :guid, :url, CAST(:attributes AS jsonb), 1 FROM c"
        )
        with self.database.begin() as connection:
            audience_id = ensure_audience(connection, self.installation_id, name)
            for member in members:
                address, details = member if isinstance(member, tuple) else (member, {})
                empty = dict.fromkeys(("body_format", "locale", "guid", "url", "attributes"))
                key = {"installation_id": self.installation_id, "audience_id": audience_id}
                connection.execute(
                    insert, {**empty, **shared, **details, **key, "address": f"{address}@example.com"}
                )
        return audience_id

    def many(self, name: str, first: int, last: int) -> int:
        """Contacts r<first> … r<last>."""
        with self.database.begin() as connection:
            audience_id = ensure_audience(connection, self.installation_id, name)
            key = {"i": self.installation_id, "a": audience_id, "first": first, "last": last}
            series = "FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n"
            connection.execute(
                text(
                    "INSERT INTO contact (installation_id, address, address_key) SELECT :i, "
                    f"'r' || n || '@example.com', 'r' || n || '@example.com' {series} ON CONFLICT DO NOTHING"
                ),
                key,
            )
            connection.execute(
                text(
                    "INSERT INTO audience_member SELECT :a, contact_id, NULL, NULL, NULL, NULL, NULL, 1 "
                    f"{series} JOIN contact ON address = 'r' || n || '@example.com'"
                ),
                key,
            )
        return audience_id

    def suppress(self, address: str, reason: str, topic: str = "") -> None:
        with self.database.begin() as connection:
            suppress_address(
                connection, self.installation_id, f"{address}@example.com", reason, topic=topic, now=NOW
            )

    def release(self, *audiences: int, exclude: Sequence[int] = (), topic: str = "") -> int:
        with self.database.begin() as connection:
            release_id = connection.scalars(
                text(
                    "INSERT INTO mail_job (release_id, installation_id, state) VALUES (0, :i, 'QUEUING') "
                    "RETURNING mail_job_id"
                ),
                {"i": self.installation_id},
            ).one()
            connection.execute(text("UPDATE mail_job SET release_id = mail_job_id WHERE release_id = 0"))
            campaign_id = connection.scalars(
                text(
                    "INSERT INTO campaign (installation_id, name, digest) VALUES (:i, :name, '') RETURNING campaign_id"
                ),
                {"i": self.installation_id, "name": f"campaign {release_id}"},
            ).one()
            connection.execute(
                text(
                    "INSERT INTO release (release_id, campaign_id, released_at, released_on, files, digest, topic, "
                    "audience_ids, excluded_audience_ids) "
                    "VALUES (:r, :c, :now, :day, '{}', '', :topic, :audiences, :exclude)"
                ),
                {
                    "r": release_id,
                    "c": campaign_id,
                    "now": NOW,
                    "day": DAY,
                    "topic": topic,
                    "audiences": list(audiences),
                    "exclude": list(exclude),
                },
            )
        return int(release_id)

    def resolve(self, release_id: int, **options: Any) -> ResolveSummary:
        return resolve_recipients(
            self.database, release_id, **{"small_audience_threshold": 100, "now": NOW, **options}
        )

    def rows(self, sql: str, **binds: Any) -> list[tuple[Any, ...]]:
        with self.database.begin() as connection:
            return [tuple(row) for row in connection.execute(text(sql), binds)]

    def recipients(self, release_id: int) -> list[tuple[Any, ...]]:
        """recipient_no, name, audience_id, bypass reason."""
        return self.rows(
            "SELECT recipient_no, split_part(address, '@', 1), audience_id, bypass_reason "
            "FROM recipient JOIN contact USING (contact_id) WHERE release_id = :r ORDER BY recipient_no",
            r=release_id,
        )

    def mail_job(self, release_id: int) -> tuple[Any, ...]:
        return self.rows("SELECT state, kind, reason FROM mail_job WHERE mail_job_id = :r", r=release_id)[0]

    def handed_over(
        self, release_id: int, after: int = 0, batch: int = 100
    ) -> tuple[list[Recipient], list[Bypass]]:
        recipients: list[Recipient] = []
        bypasses: list[Bypass] = []
        with self.database.connect_autocommit() as connection:
            for each in recipients_to_assemble(connection, release_id, after, batch):
                assert len(each.recipients) + len(each.bypasses) <= batch
                recipients += each.recipients
                bypasses += each.bypasses
        return recipients, bypasses


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


@pytest.mark.rule("1.3", "1.8")
def test_a_contact_of_several_audiences_is_one_recipient_with_the_first_ones_details(world: World) -> None:
    first = world.audience("first", "ann", "ben", body_format="text", attributes='{"list": "first"}')
    second = world.audience("second", "ben", "cid", "dan", locale="de", attributes='{"list": "second"}')
    release = world.release(second, first)
    summary = world.resolve(release)
    assert summary == ResolveSummary(audience_rows=5, duplicates=1, recipients=4, bypassed={}, is_small=True)
    assert world.recipients(release) == [
        (1, "ann", first, None),
        (2, "ben", second, None),
        (3, "cid", second, None),
        (4, "dan", second, None),
    ]
    recipients, bypasses = world.handed_over(release)
    assert [each.recipient_no for each in recipients] == [1, 2, 3, 4]
    assert recipients[0] == Recipient(
        recipient_no=1,
        contact_id=recipients[0].contact_id,
        address="ann@example.com",
        body_format=BodyFormat.TEXT,
        attributes={"list": "first"},
    )
    assert (recipients[1].locale, recipients[1].attributes) == ("de", {"list": "second"})
    assert bypasses == []
    figures = "SELECT audience_rows, duplicates, recipient_count, bypassed_count, resolved_at FROM release"
    assert world.rows(figures) == [(5, 1, 4, 0, NOW)]
    assert world.mail_job(release) == ("QUEUING", "small", "")


@pytest.mark.rule("1.4", "1.5")
def test_verify_and_filter_bypass_with_the_first_reason(world: World) -> None:
    fine = {"attributes": '{"name": "N", "city": "C"}'}
    members = world.audience(
        "members",
        *[(name, fine) for name in ("ann", "out", "topic", "other", "bounce", "angry", "hand", "not_us")],
        ("format", {**fine, "body_format": "rtf"}),
        ("html", {**fine, "body_format": "mhtml"}),
        ("nameless", {"attributes": '{"name": " ", "city": "C"}'}),
        ("homeless", {"attributes": '{"name": "N", "city": null}'}),
        ("nothing", {}),
        ("worst", {"body_format": "rtf"}),
    )
    excluded = world.audience("excluded", "not_us", "out", "stranger")
    for address, reason, topic in [
        ("out", "opted_out", ""),
        ("topic", "opted_out_of_topic", "offers"),
        ("other", "opted_out_of_topic", "news"),
        ("bounce", "hard_bounce", ""),
        ("bounce", "opted_out_of_topic", "offers"),
        ("angry", "complaint", ""),
        ("hand", "manual", ""),
        ("worst", "manual", ""),
    ]:
        world.suppress(address, reason, topic)
    release = world.release(members, exclude=[excluded], topic="offers")
    summary = world.resolve(release, required_attributes=["name", "city"], small_audience_threshold=3)
    assert {name: reason for _, name, _, reason in world.recipients(release)} == {
        "ann": None,
        "other": None,
        "html": None,
        "out": "opted_out",
        "topic": "opted_out_of_topic",
        "bounce": "hard_bounce",
        "angry": "complaint",
        "hand": "manual",
        "not_us": "excluded_audience",
        "format": "bad_body_format",
        "worst": "bad_body_format",
        "nameless": "missing_attribute:name",
        "homeless": "missing_attribute:city",
        "nothing": "missing_attribute:name",
    }
    assert summary.bypassed["missing_attribute:name"] == 2
    assert (summary.recipients, summary.to_assemble, summary.is_small) == (14, 3, False)
    assert {each.address for each in world.handed_over(release)[0]} == {
        "ann@example.com",
        "other@example.com",
        "html@example.com",
    }
    assert world.mail_job(release) == ("QUEUING", "parent", "")


@pytest.mark.rule("1.4")
@pytest.mark.parametrize(("name", "column"), [("rcp_url", "url"), ("locale", "locale"), ("guid", "guid")])
def test_what_the_membership_holds_itself_can_be_required(world: World, name: str, column: str) -> None:
    release = world.release(world.audience("members", ("ann", {column: "x"}), "ben"))
    world.resolve(release, required_attributes=[name])
    assert {address: reason for _, address, _, reason in world.recipients(release)} == {
        "ann": None,
        "ben": f"missing_attribute:{name}",
    }


@pytest.mark.rule("1.7")
@pytest.mark.parametrize("is_empty", [True, False])
def test_nobody_left_stops_the_mail_job(world: World, is_empty: bool) -> None:
    audience = world.audience("nobody", *([] if is_empty else ["ann"]))
    world.suppress("ann", "manual")
    release = world.release(audience)
    summary = world.resolve(release)
    assert summary.to_assemble == 0
    state, _, reason = world.mail_job(release)
    assert state == "STOPPED"
    assert reason == (
        "no recipients: the audiences are empty" if is_empty else "no recipients: all are bypassed (1 manual)"
    )
    assert world.resolve(release) == summary


@pytest.mark.rule("3.1")
@pytest.mark.parametrize(("recipients", "kind"), [(9, "small"), (10, "parent")])
def test_small_is_fixed_by_those_who_are_left(world: World, recipients: int, kind: str) -> None:
    audience = world.many("members", 1, recipients + 1)
    world.suppress("r1", "manual")
    release = world.release(audience)
    assert world.resolve(release, small_audience_threshold=10).is_small == (kind == "small")
    assert world.mail_job(release)[1] == kind


def _component(stage: str, function: Callable[..., Any]) -> Component:
    return Component(name=f"rules:{stage}", stage=stage, function=function)


@pytest.mark.rule("1.6", "1.8")
def test_components_of_preprocess_and_filter_see_who_is_left_in_batches(world: World) -> None:
    release = world.release(world.many("members", 1, 2_500))
    world.suppress("r7", "manual")
    seen: list[tuple[str, int]] = []

    def thirds(batch: Sequence[Recipient]) -> list[Bypass]:
        seen.append(("preprocess", len(batch)))
        return [Bypass(recipient_no=r.recipient_no, reason="third") for r in batch if r.recipient_no % 3 == 0]

    def fifths(batch: Sequence[Recipient]) -> list[Bypass]:
        seen.append(("filter", len(batch)))
        return [
            Bypass(recipient_no=r.recipient_no, reason="fifth", detail="no luck")
            for r in batch
            if r.recipient_no % 5 == 0
        ]

    components = [
        _component("filter", fifths),
        _component("preprocess", thirds),
        _component("send", seen.append),
    ]
    summary = world.resolve(release, components=components)
    assert summary.bypassed == {"manual": 1, "third": 833, "fifth": 334}
    assert [stage for stage, _ in seen] == ["preprocess", "filter"] * 3
    assert sum(size for stage, size in seen if stage == "preprocess") == 2_499
    stored = world.rows("SELECT stage, reason, detail, count(*) FROM bypass GROUP BY 1, 2, 3 ORDER BY 1")
    assert stored == [("filter", "fifth", "no luck", 334), ("preprocess", "third", "", 833)]
    assert world.rows("SELECT bypassed_count FROM release") == [(1_168,)]
    assert len(world.handed_over(release, batch=700)[0]) == summary.to_assemble == 2_500 - 1_168


@pytest.mark.rule("1.6")
def test_a_component_that_raises_fails_the_stage_and_leaves_nothing(world: World) -> None:
    release = world.release(world.audience("members", "ann", "ben"))

    def broken(batch: Sequence[Recipient]) -> None:
        raise RuntimeError(batch[0].address)

    with pytest.raises(ComponentFailed, match=r"rules:filter \(stage filter\).*RuntimeError") as raised:
        world.resolve(release, components=[_component("filter", broken)])
    assert "@" not in str(raised.value)
    assert world.recipients(release) == []
    assert world.rows("SELECT resolved_at, recipient_count FROM release") == [(None, None)]
    assert world.resolve(release).recipients == 2


@pytest.mark.rule("1.3")
def test_dedup_happens_once(world: World) -> None:
    audience = world.audience("members", "ann", "ben")
    release = world.release(audience)
    first = world.resolve(release)
    world.audience("members", "cid")
    assert world.resolve(release) == first
    with pytest.raises(NotFound, match="no release 999"):
        world.resolve(999)
    world.rows(
        "UPDATE mail_job SET state = 'INTERRUPTED' WHERE mail_job_id = :r RETURNING 1",
        r=(second := world.release(audience)),
    )
    with pytest.raises(StateConflict, match="INTERRUPTED"):
        world.resolve(second)


_SLOW = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from mail_orchestration.audience.resolving import resolve_recipients
from mail_orchestration.kernel.components import Component
from mail_orchestration.kernel.database import Database

def never_ends(batch):
    print("in the middle", flush=True)
    time.sleep(600)

with Database.open(sys.argv[1], Path("."), application_name="slow") as database:
    resolve_recipients(
        database, int(sys.argv[2]), small_audience_threshold=1, now=datetime(2026, 3, 2, 9, tzinfo=UTC),
        components=[Component(name="x", stage="filter", function=never_ends)],
    )
"""


@pytest.mark.rule("1.3", "3.2")
def test_dedup_that_was_killed_is_interrupted_and_can_be_done_again(world: World, database_url: str) -> None:
    audience = world.audience("members", "ann", "ben")
    release, waiting = world.release(audience), world.release(audience)
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, database_url, str(release)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in the middle\n"
        # It is slow, not dead: nobody may take it away, nor resolve it beside.
        assert mark_interrupted(world.database, NOW) == []
        with pytest.raises(StateConflict, match="another session"):
            world.resolve(release)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    _wait_until_gone(database_url, "slow")
    assert mark_interrupted(world.database, NOW) == [release]
    assert mark_interrupted(world.database, NOW) == []
    assert world.mail_job(release)[0] == "INTERRUPTED"
    assert world.mail_job(waiting)[0] == "QUEUING"
    assert world.recipients(release) == []
    world.rows(
        "UPDATE mail_job SET state = 'QUEUING' WHERE mail_job_id = :r AND state = 'INTERRUPTED' RETURNING 1",
        r=release,
    )
    assert world.resolve(release).recipients == 2
    assert mark_interrupted(world.database, NOW) == []


@pytest.mark.rule("1.3")
def test_a_backend_killed_in_mid_dedup_leaves_nothing(world: World, database_url: str) -> None:
    release = world.release(world.audience("members", "ann", "ben"))

    def kill_us(batch: Sequence[Recipient]) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )

    with pytest.raises(DatabaseUnavailable):
        world.resolve(release, components=[_component("filter", kill_us)])
    assert mark_interrupted(world.database, NOW) == [release]
    assert world.recipients(release) == []


def _wait_until_gone(database_url: str, application_name: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        while connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()",
            [application_name],
        ).fetchone():
            connection.execute("SELECT pg_sleep(0.05)")


@pytest.mark.rule("1.4")
def test_who_left_the_audience_after_dedup_is_handed_over_as_a_bypass(world: World) -> None:
    release = world.release(world.audience("members", "ann", "ben", "cid"))
    world.resolve(release)
    world.rows(
        "DELETE FROM audience_member USING contact WHERE contact.contact_id = audience_member.contact_id "
        "AND address = 'ben@example.com' RETURNING 1"
    )
    recipients, bypasses = world.handed_over(release, batch=1)
    assert [each.recipient_no for each in recipients] == [1, 3]
    assert bypasses == [Bypass(recipient_no=2, reason="left_audience")]
    assert [each.recipient_no for each in world.handed_over(release, after=2)[0]] == [3]


def test_only_a_resolved_release_is_handed_over(world: World) -> None:
    release = world.release(world.audience("members", "ann"))
    with pytest.raises(NotFound, match="not resolved"):
        world.handed_over(release)

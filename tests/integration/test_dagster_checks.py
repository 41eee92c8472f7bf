"""The asset checks fail when they should: here the books, dedup and assembly really are broken."""

from __future__ import annotations

import dagster as dg
import pytest
from sqlalchemy import text

from mail_orchestration.broadcast import resolve_release
from mail_orchestration.frequency.queue import rescan
from mail_orchestration.kernel.clock import utc_now
from tests.integration.dagster_fixtures import World, dagster_instance, failure_of, world

__all__ = ["dagster_instance", "world"]

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


def evaluations(world: World, result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The run's checks by name, as Dagster keeps them."""
    kept = world.instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [entry.get_dagster_event().asset_check_evaluation_data for entry in kept]
    return {evaluation.check_name: evaluation for evaluation in found}


def execute(world: World, statement: str, **binds: object) -> None:
    """Do something to the database that the library never does."""
    with world.installation() as opened, opened.database.begin() as connection:
        connection.execute(text(statement), binds)


@pytest.mark.rule("1.8")
def test_a_message_that_vanished_fails_the_report(world: World) -> None:
    key = world.queued()
    execute(world, "DELETE FROM assembled_message WHERE release_id = :id AND message_no = 7", id=int(key))

    result = world.run("report", partition_key=key, must_succeed=False)

    assert not result.success
    found = evaluations(world, result)["books_balance"]
    assert not found.passed
    assert found.blocking
    assert "1 " in (found.description or "")


@pytest.mark.rule("1.3")
def test_a_contact_who_is_twice_among_the_recipients_stops_the_run_before_assembly(world: World) -> None:
    key = world.release()
    resolve_release(world.mail.shared(), int(key), now=utc_now())
    execute(
        world,
        "UPDATE recipient SET contact_id = (SELECT min(contact_id) FROM recipient WHERE release_id = :id) "
        "WHERE release_id = :id AND recipient_no = 130",
        id=int(key),
    )

    result = world.run("assemble", partition_key=key, must_succeed=False)

    assert not result.success
    found = evaluations(world, result)["no_contact_twice"]
    assert not found.passed
    assert found.metadata["contacts_twice"].value == 1
    assert result.asset_materializations_for_node("assembled_messages") == []


@pytest.mark.rule("2.7")
def test_too_many_assembly_failures_fail_the_check_and_the_run(world: World) -> None:
    world.write_campaign(subject="Hello {{ last_name }}")
    key = world.release()

    result = world.run("assemble", partition_key=key, must_succeed=False)

    assert not result.success
    found = evaluations(world, result)["assembly_failures"]
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.ERROR
    assert "of 130" in (found.description or "")
    assert failure_of(result)
    assert result.asset_materializations_for_node("assembled_messages") == []


@pytest.mark.rule("2.7")
def test_a_few_assembly_failures_are_a_warning(world: World) -> None:
    world.write_campaign(
        subject="{{ last_name if first_name == 'Zoë 5' else first_name }}",
        maximum_assembly_failures_percentage=5,
    )
    key = world.release()

    result = world.run("assemble", partition_key=key)

    found = evaluations(world, result)["assembly_failures"]
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.WARN
    assert found.metadata["failures"].value == 1
    assert evaluations(world, result)["books_balance"].passed


@pytest.mark.rule("8.2")
def test_counters_that_are_not_what_the_log_adds_up_to_fail_their_check(world: World) -> None:
    world.write_settings(frequency={"enabled": True, "rules": [{"max_mails": 1, "days": 7}]})
    world.run("assemble", partition_key=world.release())
    checked = evaluations(world, world.run("close_of_the_day"))["counters_equal_the_log"]
    assert checked.passed
    execute(world, "UPDATE frequency_counter SET mails_1 = 1 WHERE contact_id <= 2")
    execute(world, "UPDATE frequency_counter SET places = places + 1 WHERE contact_id <= 3")

    checked = evaluations(world, world.run("close_of_the_day"))["counters_equal_the_log"]

    assert not checked.passed
    assert not checked.blocking
    assert checked.description == (
        "The counters of 2 contacts are not what the daily log adds up to, and 3 have other places than their mails."
    )

    with world.installation() as opened:
        rescan(opened, anew=True)

    assert evaluations(world, world.run("close_of_the_day"))["counters_equal_the_log"].passed

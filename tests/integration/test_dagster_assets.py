"""Each asset, materialised on a real database: it does its step, tells it, and does it once."""

from __future__ import annotations

import base64
import re
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from assets.dataframes import audience_from_dataframe
from mail_orchestration.broadcast import release
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.kernel.states import MailJobState
from schedules.definitions import defs
from tests.integration.dagster_fixtures import (
    StoringRelay,
    World,
    dagster_instance,
    failure_of,
    metadata_of,
    relay,
    world,
)

__all__ = ["dagster_instance", "relay", "world"]

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.mark.rule("1.1")
@pytest.mark.rule("1.2")
def test_audience_members_imports_and_counts_what_it_set_aside(world: World) -> None:
    told = metadata_of(world.run("import_audiences"), "audience_members")

    assert told["dagster/row_count"] == 160
    assert told["rows_read"] == 161
    assert told["rows_rejected"] == 1
    assert re.search(r"\| members \| +101 \| +100 \|", told["audiences"])
    assert "members" in told["rejects_by_reason"]
    assert "no address at all" not in str(told), "no value of a person's row is shown"


def test_only_the_named_audiences_are_imported(world: World) -> None:
    config = {"audience_members": {"config": {"audiences": ["friends"]}}}
    told = metadata_of(world.run("import_audiences", config=config), "audience_members")

    assert told["dagster/row_count"] == 60
    assert "members" not in told["audiences"].partition("\n")[2].replace("members now", "")


def test_an_unknown_audience_is_named_with_those_there_are(world: World) -> None:
    config = {"audience_members": {"config": {"audiences": ["fiends"]}}}
    result = world.run("import_audiences", config=config, must_succeed=False)

    assert not result.success
    assert "fiends" in failure_of(result)
    assert "friends" in failure_of(result)


@pytest.mark.rule("1.3")
@pytest.mark.rule("2.7")
def test_assemble_resolves_and_assembles_once(world: World) -> None:
    key = world.release()

    first = world.run("assemble", partition_key=key)
    chosen, written = metadata_of(first, "recipients"), metadata_of(first, "assembled_messages")
    assert chosen["dagster/row_count"] == 130
    assert (chosen["audience_rows"], chosen["duplicates"], chosen["bypassed"]) == (160, 30, 0)
    assert chosen["this_run"] == "deduplicated"
    assert written["dagster/row_count"] == 130
    assert written["this_run"] == "assembled"
    assert {evaluation.check_name for evaluation in first.get_asset_check_evaluations()} == {
        "no_contact_twice",
        "assembly_failures",
        "books_balance",
    }
    assert all(evaluation.passed for evaluation in first.get_asset_check_evaluations())

    again = world.run("assemble", partition_key=key)
    assert metadata_of(again, "recipients")["this_run"].startswith("nothing")
    assert metadata_of(again, "assembled_messages")["this_run"].startswith("nothing")
    assert metadata_of(again, "recipients")["dagster/row_count"] == 130
    assert metadata_of(again, "assembled_messages")["dagster/row_count"] == 130


@pytest.mark.rule("1.7")
def test_a_release_without_recipients_is_stopped_and_says_so(world: World) -> None:
    world.write_audience("members", [])
    world.write_audience("friends", [])
    key = world.release()

    told = metadata_of(world.run("assemble", partition_key=key), "assembled_messages")
    assert told["state"] == "STOPPED"
    assert told["dagster/row_count"] == 0


def test_queueing_shows_a_small_mail_job_as_its_own_child(world: World) -> None:
    world.write_audience("members", range(1, 11))
    world.write_audience("friends", [])
    key = world.assembled()

    told = metadata_of(world.run("queue_for_delivery", partition_key=key), "child_jobs")
    assert told["state"] == "QUEUED"
    assert told["messages"] == 10
    assert world.instance.get_dynamic_partitions("child_jobs") == [key]

    again = metadata_of(world.run("queue_for_delivery", partition_key=key), "child_jobs")
    assert again["this_run"].startswith("nothing")


def test_a_shift_tells_each_child_and_the_report_tells_all(world: World, relay: StoringRelay) -> None:
    key = world.queued()

    shift = world.run("mailcaster", config={"work_a_shift": {"config": {"mailcaster": "large"}}})

    assert relay.recipients == sorted(f"person{number}@example.net" for number in range(1, 131))
    with world.installation() as opened, opened.database.begin() as connection:
        made = children(connection, int(key))
        assert mail_job(connection, int(key)).state is MailJobState.P_FINISHED
    assert len(made) > 1
    told = shift.asset_materializations_for_node("work_a_shift")
    assert [event.partition for event in told] == [str(child.mail_job_id) for child in made]
    assert sum(int(event.metadata["accepted"].value) for event in told) == 130  # type: ignore[arg-type]
    assert world.instance.get_dynamic_partitions("child_jobs") == [str(child.mail_job_id) for child in made]

    shown_children = metadata_of(world.run("queue_for_delivery", partition_key=key), "child_jobs")
    assert shown_children["dagster/row_count"] == len(made)

    report = world.run("report", partition_key=key)
    told_of_all = metadata_of(report, "mail_job_report")
    assert told_of_all["accepted"] == 130
    assert told_of_all["accepted_share"] == "100.0 %"
    assert "example.net" in told_of_all["domains"]
    assert "person1@" not in str(told_of_all)
    picture = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", told_of_all["course_of_time"])
    assert picture is not None
    assert base64.b64decode(picture.group(1)).startswith(b"\x89PNG")
    [balance] = report.get_asset_check_evaluations()
    assert balance.passed


def test_chosen_children_are_delivered_by_hand_and_told_again_without_sending(
    world: World, relay: StoringRelay
) -> None:
    world.write_audience("members", range(1, 11))
    world.write_audience("friends", [])
    key = world.queued()

    world.run("queue_for_delivery", partition_key=key)

    first = metadata_of(world.run("deliver_child_jobs", partition_key=key), "deliver_chosen_children")
    assert first["this_run"] == "delivered by large"
    assert first["state"] == "FINISHED"
    assert first["accepted"] == 10

    again = metadata_of(world.run("deliver_child_jobs", partition_key=key), "deliver_chosen_children")
    assert again["this_run"] == "nothing: it is FINISHED"
    assert again["accepted"] == 10
    assert len(relay.received) == 10


@pytest.mark.rule("8.2")
def test_frequency_counters_close_nothing_before_the_day_is_over(world: World) -> None:
    told = metadata_of(world.run("close_of_the_day"), "frequency_counters")
    assert told["days_closed_now"].startswith("Every day that is over")
    assert [line.split("|")[1].strip() for line in told["windows"].splitlines()[2:]] == ["1", "7", "30", "90"]


@pytest.mark.rule("8.4")
def test_frequency_counters_tell_who_is_at_a_limit_and_let_go_what_is_allowed(world: World) -> None:
    rule = {"max_mails": 1, "days": 7}
    world.write_settings(frequency={"enabled": True, "rules": [rule]})
    world.run("assemble", partition_key=world.release("one"))
    second = world.release("two")
    told = metadata_of(world.run("assemble", partition_key=second), "recipients")
    assert "1 in 7 days" in told["kept_by_the_frequency_policy"]

    told = metadata_of(world.run("close_of_the_day"), "frequency_counters")
    assert told["policy"] == "at most 1 in 7 days (rolling window)"
    assert "| 1 in 7 days | 130 | 100.0 % |" in told["contacts_at_their_limit"]
    assert (told["held"], told["let_go_now"]) == (130, 0)
    assert "| hello | 1 in 7 days | 130 |" in told["held_by_campaign"]
    assert told["held_over_time"].startswith("![the frequency queue](data:image/png;base64,")

    world.write_settings(frequency={"enabled": True, "rules": [{**rule, "max_mails": 2}]})
    told = metadata_of(world.run("close_of_the_day"), "frequency_counters")
    assert (told["held"], told["let_go_now"]) == (0, 130)
    assert f"| {int(second) + 1} | hello | {second} | 130 |" in told["sent_by"]
    later = metadata_of(world.run("assemble", partition_key=str(int(second) + 1)), "assembled_messages")
    assert later["dagster/row_count"] == 130
    report = metadata_of(world.run("report", partition_key=second), "mail_job_report")
    assert f"| {int(second) + 1} |" in report["later_mail_jobs"]
    assert "@" not in str(told) + str(report)


@pytest.mark.rule("1.2")
def test_an_upstream_dataframe_fills_an_audience(world: World) -> None:
    @dg.asset
    def loyal_customers() -> pd.DataFrame:
        return pd.DataFrame({"email": ["ada@example.org", "not an address"], "first_name": ["Ada", "Nobody"]})

    loyal = audience_from_dataframe("loyal", loyal_customers)
    merged = dg.Definitions.merge(
        defs, dg.Definitions(assets=[loyal_customers, loyal], resources={"io_manager": dg.mem_io_manager})
    )
    result = dg.materialize(
        [loyal_customers, loyal], resources={"mail": world.mail, "io_manager": dg.mem_io_manager}
    )

    told = metadata_of(result, "audience_members__loyal")
    assert told["dagster/row_count"] == 1
    assert told["rows_rejected"] == 1
    assert merged.resolve_asset_graph().has(dg.AssetKey(["audience_members", "loyal"]))


@pytest.mark.rule("2.1")
def test_each_launch_of_release_campaign_makes_one_mail_job(world: World) -> None:
    world.run("import_audiences")
    config: dict[str, Any] = {"release_folder": {"config": {"campaign": "hello", "priority": 7}}}

    world.run("release_campaign", config=config)

    [key] = world.instance.get_dynamic_partitions("mail_jobs")
    with world.installation() as opened, opened.database.begin() as connection:
        found = mail_job(connection, int(key))
    assert found.priority == 7
    assert found.state is MailJobState.QUEUING
    config["release_folder"]["config"] |= {"again": True, "occurrence": "May 20"}
    world.run("release_campaign", config=config)
    [second] = set(world.instance.get_dynamic_partitions("mail_jobs")) - {key}
    with world.installation() as opened:
        made = release(opened, int(second))
    assert (made.again, made.occurrence) == (True, "May 20")

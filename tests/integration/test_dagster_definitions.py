"""The definitions load, and everything in them tells an operator what it is."""

from __future__ import annotations

import itertools

import dagster as dg
import pytest

from jobs.tags import PROCESS
from mail_orchestration.processes import PROCESSES
from schedules.definitions import defs

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

LINEAGE = [
    "audience_members",
    "recipients",
    "assembled_messages",
    "child_jobs",
    "global_queue",
    "delivery_results",
    "mail_job_report",
]


def test_they_load() -> None:
    dg.Definitions.validate_loadable(defs)


@pytest.mark.rule("11.1")
def test_the_lineage_is_the_way_of_the_mail() -> None:
    graph = defs.resolve_asset_graph()
    for upstream, downstream in itertools.pairwise(LINEAGE):
        assert graph.get(dg.AssetKey(downstream)).parent_keys == {dg.AssetKey(upstream)}
    assert graph.get(dg.AssetKey("frequency_counters")).parent_keys == {dg.AssetKey("delivery_results")}


@pytest.mark.rule("11.1")
@pytest.mark.parametrize("name", [*LINEAGE, "frequency_counters"])
def test_every_asset_explains_itself(name: str) -> None:
    node = defs.resolve_asset_graph().get(dg.AssetKey(name))

    assert len(node.description or "") > 100
    assert node.group_name != "default"
    assert node.owners == ["team:mail-operations"]
    assert node.kinds
    if name != "global_queue":
        assert node.metadata["dagster/column_schema"]


@pytest.mark.rule("6.1")
def test_every_job_sensor_and_schedule_explains_itself() -> None:
    repository = defs.get_repository_def()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    assert {job.name for job in jobs} >= {
        "assemble",
        "queue_for_delivery",
        "mailcaster",
        "deliver_child_jobs",
        "report",
        "close_of_the_day",
        "clean_delivery_queue",
        "import_audiences",
        "release_campaign",
    }
    for job in jobs:
        assert job.description, job.name
        assert job.executor_def is dg.in_process_executor, job.name
    for sensor in repository.sensor_defs:
        assert sensor.description, sensor.name
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING, sensor.name
    for schedule in repository.schedule_defs:
        assert schedule.description, schedule.name
        assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING, schedule.name


@pytest.mark.rule("6.1")
def test_every_sensor_and_schedule_is_a_process_and_says_what_the_table_says() -> None:
    repository = defs.get_repository_def()
    targets = {
        sensor.name: [target.job_name for target in sensor.targets] if sensor.targets else []
        for sensor in repository.sensor_defs
    } | {schedule.name: [schedule.job_name] for schedule in repository.schedule_defs}
    said = {
        **{("sensor", each.name): each.description for each in repository.sensor_defs},
        **{("schedule", each.name): each.description for each in repository.schedule_defs},
    }

    assert said == {(each.trigger.value, each.name): each.description for each in PROCESSES}
    assert targets == {each.name: list(each.jobs) for each in PROCESSES}
    for each in PROCESSES:
        for name in each.jobs:
            assert repository.get_job(name).tags[PROCESS] == each.name
            assert each.is_per_mail_job == (repository.get_job(name).partitions_def is not None)


def test_the_report_of_a_release_is_downstream_of_no_child_of_another() -> None:
    """A backfill of children pulls no report with it, nor a report any child."""
    graph = defs.resolve_asset_graph()
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("mail_jobs", ["1", "2"])
        instance.add_dynamic_partitions("child_jobs", ["1", "3", "4"])
        children = dg.AssetKey("delivery_results")
        report = dg.AssetKey("mail_job_report")
        pulled = graph.get_partition_mapping(report, children).get_downstream_partitions_for_partitions(
            upstream_partitions_subset=graph.get(children).partitions_def.subset_with_partition_keys(
                ["1", "3"]
            ),
            upstream_partitions_def=graph.get(children).partitions_def,
            downstream_partitions_def=graph.get(report).partitions_def,
            dynamic_partitions_store=instance,
        )
        assert list(pulled.get_partition_keys()) == []

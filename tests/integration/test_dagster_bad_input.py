"""What people type into Dagster's UI: partition keys, names of campaigns and mailcasters."""

from __future__ import annotations

import pytest

from assets.partitions import mail_job_id_of
from mail_orchestration.kernel.errors import BadInput
from tests.integration.dagster_fixtures import World, dagster_instance, failure_of, world

__all__ = ["dagster_instance", "world"]

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.mark.parametrize("key", ["", "0", "-1", "１２", "12a", "1;2", "1" * 19, " 7", "spring-newsletter"])
def test_a_key_that_is_no_number_of_a_mail_job_is_refused(key: str) -> None:
    with pytest.raises(BadInput, match="names no mail job"):
        mail_job_id_of(key)


@pytest.mark.parametrize("job", ["assemble", "queue_for_delivery", "report"])
@pytest.mark.parametrize(
    ("key", "said"), [("newsletter", "names no mail job"), ("987654", "there is no release 987654")]
)
def test_a_key_that_somebody_typed_fails_with_what_is_wrong(
    world: World, job: str, key: str, said: str
) -> None:
    world.instance.add_dynamic_partitions("mail_jobs", [key])

    result = world.run(job, partition_key=key, must_succeed=False)

    assert not result.success
    assert said in failure_of(result)


@pytest.mark.parametrize(
    ("key", "said"), [("x", "names no mail job"), ("987654", "there is no mail job 987654")]
)
def test_so_does_a_typed_key_of_a_child(world: World, key: str, said: str) -> None:
    world.instance.add_dynamic_partitions("child_jobs", [key])

    result = world.run("deliver_child_jobs", partition_key=key, must_succeed=False)

    assert not result.success
    assert said in failure_of(result)


def test_a_parent_is_not_delivered_as_a_child(world: World) -> None:
    key = world.queued()
    world.instance.add_dynamic_partitions("child_jobs", [key])

    result = world.run("deliver_child_jobs", partition_key=key, must_succeed=False)

    assert "is parent: only children and small mail jobs are delivered" in failure_of(result)


@pytest.mark.parametrize("name", ["goodbye", "../campaigns/hello", "/etc", ""])
def test_a_campaign_is_a_folder_of_the_campaigns_folder(world: World, name: str) -> None:
    config = {"release_folder": {"config": {"campaign": name}}}
    result = world.run("release_campaign", config=config, must_succeed=False)

    assert not result.success
    assert "there are: hello" in failure_of(result)
    assert world.instance.get_dynamic_partitions("mail_jobs") == []


def test_an_unknown_mailcaster_is_named_with_those_there_are(world: World) -> None:
    config = {"work_a_shift": {"config": {"mailcaster": "gone"}}}
    result = world.run("mailcaster", config=config, must_succeed=False)

    assert "there is no mailcaster named 'gone' (there are: large, small)" in failure_of(result)


def test_missing_settings_are_said_by_name(world: World) -> None:
    world.settings_file.unlink()

    result = world.run("import_audiences", must_succeed=False)

    assert f"there is no settings file {world.settings_file}" in failure_of(result)


def test_a_database_that_is_down_is_said_without_its_password(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:geheim@127.0.0.1:1/none")

    result = world.run("import_audiences", must_succeed=False)

    assert "127.0.0.1:1" in failure_of(result)
    assert "geheim" not in str(result.all_events)

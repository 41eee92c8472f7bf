"""Dagster's real daemon carries a release from QUEUING to its report by the sensors alone."""

from __future__ import annotations

import dagster as dg
import pytest

from mail_orchestration.broadcast import fill_audience, release_campaign
from mail_orchestration.kernel.clock import utc_now
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dagster_fixtures import StoringRelay, World, dagster_instance, relay, world
from tests.scenarios.dagster_daemon import daemon_on

__all__ = ["dagster_instance", "relay", "world"]

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.mark.rule("6.1")
@pytest.mark.rule("11.1")
def test_sensors_carry_a_release_to_its_report(world: World, relay: StoringRelay) -> None:
    installation = world.mail.shared()
    for name in ("members", "friends"):
        fill_audience(installation, name, now=utc_now())
    released = release_campaign(installation, world.folder / "campaigns" / "hello", now=utc_now())
    key = str(released.release_id)

    with daemon_on(world) as daemon:
        daemon.wait_until(
            "P_FINISHED", lambda: daemon.state_of(released.release_id) is MailJobState.P_FINISHED
        )
        report = dg.AssetKey("mail_job_report")
        daemon.wait_until("reported", lambda: key in daemon.instance.get_materialized_partitions(report))
        daemon.wait_until(
            "all runs ended",
            lambda: all(run.is_finished for run in daemon.instance.get_runs(limit=100)),
        )
        materialized = {
            name: daemon.instance.get_materialized_partitions(dg.AssetKey(name))
            for name in ("recipients", "assembled_messages", "child_jobs", "delivery_results")
        }
        statuses = {run.status for run in daemon.instance.get_runs(limit=100)}
        children = daemon.instance.get_dynamic_partitions("child_jobs")

    assert relay.recipients == sorted(f"person{number}@example.net" for number in range(1, 131))
    assert relay.subject_of("person7@example.net") == "Hello Zoë 7"
    assert materialized["recipients"] == materialized["assembled_messages"] == {key}
    assert materialized["child_jobs"] == {key}
    assert len(children) > 1
    assert materialized["delivery_results"] == set(children)
    assert statuses == {dg.DagsterRunStatus.SUCCESS}

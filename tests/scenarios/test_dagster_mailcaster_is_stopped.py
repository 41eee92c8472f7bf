"""A mailcaster's run is asked to stop in the middle of a mail job: nothing is lost, nothing is sent twice."""

from __future__ import annotations

import asyncio
import os
import signal

import dagster as dg
import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from mail_orchestration.broadcast import fill_audience, release_campaign
from mail_orchestration.kernel.clock import utc_now
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dagster_fixtures import StoringRelay, World, dagster_instance, relay, world
from tests.scenarios.dagster_daemon import daemon_on

__all__ = ["dagster_instance", "relay", "world"]

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.mark.rule("5.6")
def test_a_stopped_shift_is_canceled_and_the_next_one_goes_on(
    world: World, relay: StoringRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = relay.handle_DATA

    async def slowly(server: SMTP, session: Session, envelope: Envelope) -> str:
        await asyncio.sleep(0.1)
        return await keep(server, session, envelope)

    monkeypatch.setattr(relay, "handle_DATA", slowly)
    # One mailcaster with two connections: 130 messages take more than six seconds.
    world.write_settings(
        mailcasters=[{"name": "only", "min_job_size": 100, "max_job_size": 200, "connections": 2}]
    )
    installation = world.mail.shared()
    for name in ("members", "friends"):
        fill_audience(installation, name, now=utc_now())
    released = release_campaign(installation, world.folder / "campaigns" / "hello", now=utc_now())

    with daemon_on(world) as daemon:
        daemon.wait_until("some are sent", lambda: len(relay.received) >= 10)
        os.kill(daemon.working_process("only"), signal.SIGTERM)
        daemon.wait_until("the run has ended", lambda: daemon.runs("mailcaster")[-1].is_finished)
        first = daemon.runs("mailcaster")[-1]
        sent_by_then = len(relay.received)
        daemon.wait_until(
            "P_FINISHED", lambda: daemon.state_of(released.release_id) is MailJobState.P_FINISHED
        )
        runs = daemon.runs("mailcaster")

    assert first.status is dg.DagsterRunStatus.CANCELED
    assert 10 <= sent_by_then < 130
    assert len(runs) > 1
    assert relay.recipients == sorted(f"person{number}@example.net" for number in range(1, 131))

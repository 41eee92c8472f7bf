"""Stopping and restarting in tests: at a moment of the test's choice, told as (mail job, left, entered)."""

from __future__ import annotations

from datetime import datetime, timedelta

from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import claim_next
from mail_orchestration.dispatch.operating import Operated, Signs
from mail_orchestration.dispatch.restarting import restart_mail_job
from mail_orchestration.dispatch.stopping import stop_mail_job
from mail_orchestration.kernel.fleet_settings import DispatcherSettings, MailcasterParameters
from tests.integration.dispatch_rows import HANG_AFTER_S, NOW, World, mailcaster

HEARTBEAT_S = 10.0
DISPATCHER = DispatcherSettings(heartbeat_seconds=HEARTBEAT_S, hang_after_seconds=HANG_AFTER_S)
SOON = NOW + timedelta(seconds=5)
LATER = NOW + timedelta(seconds=2 * HEARTBEAT_S + 1)
"""A dead holder's silence is long enough by now; it does not hang yet."""

EAGER = mailcaster("eager", small_audience_threshold=2, min_job_size=10, max_job_size=15)
"""Makes children of ten messages."""

Told = list[tuple[int, str, str]]


def told(done: list[Operated]) -> Told:
    """What was changed."""
    return [(each.mail_job_id, str(each.left), str(each.entered)) for each in done if each.is_changed]


def signs(now: datetime = SOON) -> Signs:
    return Signs.of(DISPATCHER, now)


def stop(world: World, mail_job_id: int, now: datetime = SOON) -> list[Operated]:
    with world.database.begin() as connection:
        return stop_mail_job(connection, world.installation_id, mail_job_id, signs(now))


def restart(
    world: World,
    mail_job_id: int,
    now: datetime = SOON,
    *,
    failed_too: bool = True,
    expire_in_hours: float | None = 96,
) -> list[Operated]:
    with world.database.begin() as connection:
        return restart_mail_job(
            connection,
            world.installation_id,
            mail_job_id,
            signs(now),
            expire_in_hours=expire_in_hours,
            failed_too=failed_too,
        )


def claim(world: World, parameters: MailcasterParameters = EAGER, now: datetime = SOON) -> Claim | None:
    return claim_next(world.database, world.installation_id, parameters, now=now, hang_after_s=HANG_AFTER_S)


def claimed(world: World, parameters: MailcasterParameters = EAGER, now: datetime = SOON) -> Claim:
    found = claim(world, parameters, now)
    assert found is not None
    return found

"""A frequency queue in which somebody waits, and what tests ask of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from mail_orchestration.frequency.releasing import Released, release_held
from mail_orchestration.kernel.database import Database
from tests.integration.frequency_world import FrequencyWorld, days_later

WEEK = 7
LONG = {"shelf_life_days": 30}
"""Nothing expires while a test is about something else."""


def waiting(world: FrequencyWorld) -> list[tuple[int, int]]:
    """(mail job, contact) of what waits, most important first."""
    rows = world.rows(
        "SELECT release_id, contact_id FROM held_mail WHERE installation_id = :i "
        "ORDER BY priority DESC, held_at, held_mail_id",
        i=world.inst.installation_id,
    )
    return [(release_id, world.number[contact_id]) for release_id, contact_id in rows]


def endings(world: FrequencyWorld) -> dict[tuple[int, int], str]:
    """(mail job, contact) → how its wait ended."""
    rows = world.rows(
        "SELECT release_id, contact_id, ending FROM held_mail_log WHERE installation_id = :i",
        i=world.inst.installation_id,
    )
    return {(release_id, world.number[contact_id]): ending for release_id, contact_id, ending in rows}


def first_waiting(world: FrequencyWorld) -> int:
    """The number of the mail that waits for the first contact longest."""
    found = world.rows(
        "SELECT min(held_mail_id) FROM held_mail WHERE installation_id = :i", i=world.inst.installation_id
    )
    return int(found[0][0])


def important(world: FrequencyWorld, at: datetime, priority: int, campaign: str, **columns: Any) -> int:
    """A release of this priority to everybody, sent to whom the gate lets through."""
    world.night(at)
    release_id = world.made(at, campaign=campaign, **columns)
    world.execute("UPDATE mail_job SET priority = :p WHERE mail_job_id = :r", p=priority, r=release_id)
    world.resolved(release_id, at)
    world.sent(release_id, at)
    return release_id


def at_its_limit(database: Database, contacts: int = 3, **section: Any) -> tuple[FrequencyWorld, int]:
    """One mail in seven days, and everybody has it: the world, and the release whose mails are all held since."""
    world = FrequencyWorld(database, [(1, WEEK)], contacts=contacts, **{**LONG, **section})
    world.sent(world.released(days_later(0), campaign="first"), days_later(0))
    held = world.released(days_later(1), campaign="second")
    world.becomes(held, "STOPPED", days_later(1))
    assert len(waiting(world)) == contacts
    return world, held


def next_week(world: FrequencyWorld) -> Released:
    """The first mail counts no more on the eighth day after it."""
    world.night(days_later(8))
    return release_held(world.inst, now=days_later(8))

"""The operator's hand on the frequency queue: look, rescan, empty, delete, recover (spec 8.9)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from mail_orchestration.dispatch.campaigns import campaign_number
from mail_orchestration.dispatch.held_mail_lists import HeldCount, held_counts
from mail_orchestration.dispatch.held_mails import delete_held_mails, not_waiting
from mail_orchestration.dispatch.recovering_held import RecoveredHeld, recover_held_mails
from mail_orchestration.feedback.frequency_correction import Corrected, correct_counters
from mail_orchestration.feedback.frequency_figures import counted_contacts
from mail_orchestration.frequency.releasing import Released, release_held
from mail_orchestration.frequency.upkeep import Upkeep, bring_up_to_date, finish_last_night
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.frequency_in_force import policy_in_force
from mail_orchestration.kernel.frequency_lock import lock_frequency


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescanned:
    """What a rescan did."""

    upkeep: Upkeep
    released: Released
    corrected: Corrected | None = None
    """What was wrong, where all was counted anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What came back into the queue, and what of it was let go at once."""

    recovered: RecoveredHeld
    released: Released


def rescan(inst: Installation, *, anew: bool = False, now: datetime | None = None) -> Rescanned:
    """Bring the counters up to date, and let go what they allow; now by the database's clock, or at `now`.

    `anew`: counters and places are corrected before, though they were counted today; nothing goes by wrong ones. How
    many contacts are at a limit is counted at the end, for whoever asks until the next time.
    """
    corrected = None
    if anew:
        corrected = correct_counters(
            inst.database, inst.installation_id, inst.settings.zone, now or inst.now()
        )
    released = finish_last_night(inst, now=now)
    upkeep = bring_up_to_date(inst, now=now)
    released = released.then(upkeep.released).then(release_held(inst, now=now))
    with inst.database.begin() as connection:
        if (in_force := policy_in_force(connection, inst.installation_id)) is not None:
            counted_contacts(connection, inst.installation_id, in_force)
    return Rescanned(upkeep=upkeep, released=released, corrected=corrected)


def counts(inst: Installation) -> list[HeldCount]:
    """How many mails wait, by campaign and by the rule that held them, most first."""
    with inst.database.begin() as connection:
        return held_counts(connection, inst.installation_id)


def empty(inst: Installation, *, campaign: str | None = None, by: str, now: datetime | None = None) -> int:
    """Delete all mails that wait, or a campaign's, for good; how many those were. `by`: who does it, for the record.

    Raises NotFound when there is no such campaign.
    """
    with inst.database.begin() as connection:
        lock_frequency(connection, inst.installation_id)
        return delete_held_mails(
            connection,
            inst.installation_id,
            campaign_id=campaign_number(connection, inst.installation_id, campaign),
            now=now or database_now(connection),
            ended_by=by,
        )


def delete(
    inst: Installation, held_mail_ids: Collection[int], *, by: str, now: datetime | None = None
) -> int:
    """Delete these mails for good; how many those were. Raises NotFound naming those that do not wait: then none is."""
    with inst.database.begin() as connection:
        lock_frequency(connection, inst.installation_id)
        if missing := not_waiting(connection, inst.installation_id, held_mail_ids):
            numbers = ", ".join(map(str, missing))
            raise NotFound(f"nothing was deleted: no held mail of the number {numbers} waits")
        return delete_held_mails(
            connection,
            inst.installation_id,
            held_mail_ids=held_mail_ids,
            now=now or database_now(connection),
            ended_by=by,
        )


def recover(
    inst: Installation,
    *,
    expired: bool = False,
    deleted: bool = False,
    by: str,
    now: datetime | None = None,
) -> Recovered:
    """Bring mails back into the queue whose mail job was given up before it was queued, each with a new shelf life.

    Such a mail job is FAILED in its assembly, for one. With `expired` and `deleted` also what has expired and what the
    operator deleted, as long as the log of held mails has it. What the contact got or waits for by now, from another
    release, does not come back, nor what a later occurrence of a repeating campaign has overtaken (spec 8.7), nor what
    has passed its campaign's expiry. Then the queue is scanned.
    """
    released = finish_last_night(inst, now=now)
    released = released.then(bring_up_to_date(inst, now=now).released)
    with inst.database.begin() as connection:
        in_force = policy_in_force(connection, inst.installation_id)
        found = recover_held_mails(
            connection,
            inst.installation_id,
            expired=expired,
            deleted=deleted,
            shelf_life_days=(
                inst.settings.frequency if in_force is None else in_force.policy
            ).shelf_life_days,
            time_zone=inst.settings.zone,
            now=now or database_now(connection),
            by=by,
        )
    return Recovered(recovered=found, released=released.then(release_held(inst, now=now)))

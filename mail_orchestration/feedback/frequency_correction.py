"""Counters and places that are wrong, corrected from what they are counted from (spec 8.2).

Nothing of the library makes them so: a database restored in part does, or a hand that wrote into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from mail_orchestration.feedback.daily_counts import log_day
from mail_orchestration.feedback.frequency_counters import closed_days_of_release, count_windows
from mail_orchestration.feedback.frequency_figures import releases_with_places, wrong_places
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.frequency_in_force import policy_in_force
from mail_orchestration.kernel.frequency_lock import lock_frequency
from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """How many contacts had wrong figures."""

    counters: int = 0
    """Mails in a window that are not what the daily log adds up to."""
    places: int = 0
    """Other places than their mails on their way, and those of days that are not closed, come to."""


def correct_counters(
    database: Database, installation_id: int, time_zone: ZoneInfo, now: datetime
) -> Corrected:
    """Count windows and places anew, from the daily log and the mails, for the day that is counted for already.

    One transaction under the lock. Days on which mails of open releases arrived are closed again first: what the log
    has then has no place any more. Only who is wrong is written. Nothing where no policy holds.
    """
    with database.begin() as connection:
        lock_frequency(connection, installation_id)
        if policy_in_force(connection, installation_id) is None:
            return Corrected()
        days = {
            day
            for release in releases_with_places(connection, installation_id, time_zone)
            if release.is_open
            for day in closed_days_of_release(
                connection, installation_id, release.release_id, release.released_on, time_zone
            )
        }
        for day in sorted(days):
            log_day(connection, installation_id, day, time_zone, now)
        counters = count_windows(connection, installation_id)
        places = wrong_places(connection, installation_id, time_zone)
        connection.execute(STATEMENTS["correct_places"], {"installation_id": installation_id})
    return Corrected(counters=counters, places=places)

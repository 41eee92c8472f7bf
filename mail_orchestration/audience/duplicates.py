"""Whoever was queued the same content lately does not get it once more (spec 6.6).

*The same* is what the messages of a campaign say, for one occurrence of it. What an earlier release has sent to a
contact counts, and what it may still send, as does what waits for the contact in the frequency queue; what was
rejected, stopped or expired there has not arrived and counts for nothing.
"""

from __future__ import annotations

from datetime import date, timedelta

from sqlalchemy import Connection

from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.partitions import partition_of
from mail_orchestration.kernel.planner import analyze
from mail_orchestration.kernel.statements import STATEMENTS

DUPLICATE = "duplicate"
"""The bypass reason; the detail names the earlier mail job."""


def bypass_duplicates(
    connection: Connection, release_id: int, released_on: date, history: timedelta
) -> list[int]:
    """Bypass the recipients of a release whom earlier ones reached or may still; the numbers of those mail jobs.

    An earlier one counts while it has not ended, and for `history` from when it was queued. Part of the transaction
    that made the recipients; another release of the campaign waits for its end.
    """
    connection.execute(STATEMENTS["lock_dedup_of_campaign"], {"release_id": release_id})
    now = database_now(connection)
    # First of all: what leaves the frequency queue a moment later is in a release that is found below.
    held_in = connection.scalars(
        STATEMENTS["insert_duplicates_of_held"], {"release_id": release_id, "now": now}
    ).all()
    earlier = connection.execute(
        STATEMENTS["find_earlier_releases"], {"release_id": release_id, "since": now - history}
    ).all()
    if earlier:
        connection.execute(
            STATEMENTS["insert_duplicates"],
            {
                "release_id": release_id,
                "released_on": released_on,
                "release_ids": [row.release_id for row in earlier],
                "days": sorted({row.released_on for row in earlier}),
            },
        )
    elif not held_in:
        return []
    # Whoever reads the recipients next joins with these rows.
    analyze(connection, partition_of("bypass", released_on))
    return sorted({*held_in, *(row.release_id for row in earlier)})

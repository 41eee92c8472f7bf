"""The one lock under which counters, places and held mails of an installation change (spec 8.8)."""

from __future__ import annotations

from sqlalchemy import Connection

from mail_orchestration.kernel.statements import STATEMENTS


def lock_frequency(connection: Connection, installation_id: int) -> None:
    """Wait until nobody else changes how often the installation's contacts are counted; until the transaction ends.

    Statements after it see what the one before has committed. Taken before any row of frequency_policy,
    frequency_counter, place_given_back, held_mail and held_mail_log is written, and before a campaign or a mail job is
    locked: a gate that holds it goes on to its release's mail job. Who holds it analyses no table of
    recipients or bypasses but a gate: two gates of a day have waited for each other before.
    """
    connection.execute(STATEMENTS["lock_frequency"], {"installation_id": installation_id})

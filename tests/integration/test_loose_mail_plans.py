"""However many loose mails wait, the next ones are found by reading as many as are taken (6.2, 6.3)."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch import loose_mail_lists
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.loose_mail_states import LooseMailKind, LooseMailState
from tests.integration.dispatch_rows import NOW
from tests.integration.loose_rows import LooseWorld
from tests.integration.test_dispatch_plans import explain

WAITING = 20_000
AT_ONCE = 1000
"""What becomes QUEUED of each kind at once."""
KINDS = [kind.value for kind in LooseMailKind]


@pytest.fixture
def loose(database: Database) -> LooseWorld:
    """20,000 loose mails are due, all SCHEDULED, and the planner knows it."""
    made = LooseWorld(database)
    made.world.execute(
        "INSERT INTO loose_mail (installation_id, kind, state, due_at, campaign_id, contact_id, address, released_on, "
        "  release_id, message_no, mail_job_id, result_no, last_outcome) "
        "SELECT :installation_id, 'retry', 'SCHEDULED', :now, :campaign_id, n, 'x@example.org', current_date, 1, n, "
        "  1, 1, 'deferred' "
        "FROM generate_series(1, :count) AS n",
        installation_id=made.world.installation_id,
        campaign_id=made.world.campaign_id,
        now=NOW,
        count=WAITING,
    )
    with database.connect_autocommit() as connection:
        connection.execute(text("ALTER TABLE loose_mail SET (autovacuum_enabled = false)"))
        connection.execute(text("VACUUM ANALYZE loose_mail"))
    return made


def rows_read(loose: LooseWorld, name: str, **binds: object) -> float:
    """The most rows that a node of the statement's plan gave or threw away."""
    binds |= {"installation_id": loose.world.installation_id, "now": NOW}
    plan = explain(loose.world, name, **binds)
    kinds = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")
    return max(node.get(kind, 0) * node["Actual Loops"] for node in plan for kind in kinds)


RESERVATION = {
    "kinds": KINDS,
    "most": 40,
    "most_octets": 2**24,
    "is_free": True,
    "for_s": 1800,
    "worker": "w",
}


@pytest.mark.rule("6.2", "6.3")
def test_the_next_ones_are_found_by_reading_no_more_than_are_taken(loose: LooseWorld) -> None:
    assert rows_read(loose, "has_due_loose_mails", kinds=KINDS) <= len(KINDS)
    assert rows_read(loose, "queue_due_loose_mails") <= AT_ONCE * len(KINDS)
    loose.world.execute("UPDATE loose_mail SET state = 'QUEUED'")
    # The planner believes still that none is: that costs nothing.
    assert rows_read(loose, "has_due_loose_mails", kinds=KINDS) <= len(KINDS)
    assert rows_read(loose, "reserve_loose_mails", **RESERVATION) <= 40
    with loose.database.connect_autocommit() as connection:
        connection.execute(text("ANALYZE loose_mail"))
    assert rows_read(loose, "has_due_loose_mails", kinds=KINDS) <= len(KINDS)
    assert rows_read(loose, "reserve_loose_mails", **RESERVATION) <= 40


@pytest.mark.rule("11.3")
@pytest.mark.parametrize("state", [state.value for state in LooseMailState])
def test_what_is_shown_is_found_by_reading_no_more_than_is_shown(loose: LooseWorld, state: str) -> None:
    if state == "SENDING":
        # As many as workers have in hand: not many.
        loose.world.execute("UPDATE loose_mail SET state = 'FAILED' WHERE message_no > 100")
        loose.world.execute(
            "UPDATE loose_mail SET state = 'SENDING', worker = 'w', reserved_until = :now WHERE message_no <= 100",
            now=NOW,
        )
    else:
        loose.world.execute("UPDATE loose_mail SET state = CAST(:state AS loose_mail_state)", state=state)
    with loose.database.connect_autocommit() as connection:
        connection.execute(text("VACUUM ANALYZE loose_mail"))
    everything = {"states": None, "kind": None, "campaign_id": None, "mail_job_id": None, "most": 50}
    assert rows_read(loose, "count_loose_mails", most=100) <= 300
    assert rows_read(loose, "list_loose_mails", **everything) <= 300
    assert rows_read(loose, "list_loose_mails", **everything | {"states": [state], "kind": "retry"}) <= 150


@pytest.mark.rule("11.3")
def test_more_than_are_counted_are_told_as_that(loose: LooseWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    loose.world.execute("UPDATE loose_mail SET state = 'FAILED' WHERE message_no <= 30")
    monkeypatch.setattr(loose_mail_lists, "MOST_COUNTED", 30)
    with loose.database.begin() as connection:
        waiting, failed = loose_mail_lists.count_loose_mails(connection, loose.world.installation_id)
    assert (waiting.state, waiting.mails, waiting.has_more, waiting.first_due_at) == (
        "SCHEDULED",
        30,
        True,
        NOW,
    )
    assert (failed.state, failed.mails, failed.has_more, failed.first_due_at) == ("FAILED", 30, False, None)

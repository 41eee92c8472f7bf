"""Spec 4.5, the worked example: seven mailcasters divide a queue of three mail jobs among them."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claims import Claim, HeldClaim, claim_next
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.dispatch.mailcaster_types import MailcasterType, mailcaster_type
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.states import MailJobKind
from tests.integration.dispatch_rows import HANG_AFTER_S, NOW, World, mailcaster

THRESHOLD = 2000
_SMALL_PRIORITY = {"min_job_size": 200, "max_job_size": 2000, "percentage_job_size": 4}
_LARGE = {"min_job_size": 2000, "max_job_size": 5000, "percentage_job_size": 4}
FLEET = {
    1: mailcaster(
        "1", small_audience_threshold=THRESHOLD, small_job_only=True, min_job_size=1, max_job_size=1000
    ),
    **{n: mailcaster(str(n), small_audience_threshold=THRESHOLD, **_SMALL_PRIORITY) for n in (2, 3)},
    **{n: mailcaster(str(n), small_audience_threshold=THRESHOLD, **_LARGE) for n in (4, 5, 6, 7)},
}


class Fleet:
    """The seven at work, each holding what it claimed on a connection of its own."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.world = world
        self.stack = stack
        self.held: dict[int, HeldClaim] = {}

    def wakes(self, number: int) -> Claim | None:
        claim = claim_next(
            self.world.database,
            self.world.installation_id,
            FLEET[number],
            now=NOW,
            hang_after_s=HANG_AFTER_S,
        )
        if claim is not None:
            self.held[number] = self.stack.enter_context(HeldClaim(self.world.database, claim))
        return claim

    def finishes(self, number: int) -> None:
        held = self.held.pop(number)
        self.world.deliver(held.claim)
        held.finish(NOW)

    def remaining(self, parent_id: int) -> int:
        with self.world.database.begin() as connection:
            parent = mail_job(connection, parent_id)
        assert parent.last_message is not None
        assert parent.next_message is not None
        return parent.last_message - parent.next_message + 1


@pytest.mark.rule("4.5")
@pytest.mark.rule("4.3")
@pytest.mark.rule("4.4")
@pytest.mark.rule("3.2")
def test_seven_mailcasters_divide_three_mail_jobs(database: Database) -> None:
    world = World(database)
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE mail_job ALTER COLUMN mail_job_id RESTART WITH 101"))
    for messages in (11_000, 135, 200_000):
        world.queue(messages, kind="small" if messages < THRESHOLD else "parent")
    assert [world.state(n) for n in (101, 102, 103)] == ["P_QUEUED", "QUEUED", "P_QUEUED"]

    with ExitStack() as stack:
        fleet = Fleet(world, stack)

        assert _found(fleet.wakes(1)) == (102, MailJobKind.SMALL, 135)
        assert [world.state(n) for n in (101, 102, 103)] == ["P_QUEUED", "RUNNING", "P_QUEUED"]

        assert _found(fleet.wakes(4)) == (104, MailJobKind.CHILD, 2000)
        assert world.state(101) == "P_ASSIGNING"
        assert world.state(104) == "RUNNING"
        assert fleet.remaining(101) == 9000

        for number, child in ((5, 105), (6, 106), (7, 107)):
            assert _found(fleet.wakes(number)) == (child, MailJobKind.CHILD, 2000)
        assert fleet.remaining(101) == 3000

        assert _found(fleet.wakes(2)) == (108, MailJobKind.CHILD, 200)
        assert _found(fleet.wakes(3)) == (109, MailJobKind.CHILD, 200)
        assert fleet.remaining(101) == 2600
        assert world.state(101) == "P_ASSIGNING"

        fleet.finishes(1)
        assert world.state(102) == "FINISHED"
        assert fleet.wakes(1) is None

        fleet.finishes(4)
        assert world.state(104) == "FINISHED"
        assert _found(fleet.wakes(4)) == (110, MailJobKind.CHILD, 2000)
        assert fleet.remaining(101) == 600
        assert world.state(101) == "P_ASSIGNING"

        fleet.finishes(6)
        assert _found(fleet.wakes(6)) == (111, MailJobKind.CHILD, 600)
        assert fleet.remaining(101) == 0
        assert world.state(101) == "P_ASSIGNED"

        for number in (2, 3, 4, 5, 6):
            fleet.finishes(number)
            assert world.state(101) == "P_ASSIGNED"
        fleet.finishes(7)
        assert world.state(101) == "P_FINISHED"
        assert world.state(103) == "P_QUEUED"

        first = fleet.wakes(4)
        assert _found(first) == (112, MailJobKind.CHILD, 5000)
        assert first is not None
        assert first.parent_id == 103
        assert world.state(103) == "P_ASSIGNING"
        assert _found(fleet.wakes(2)) == (113, MailJobKind.CHILD, 2000)
        assert fleet.remaining(103) == 193_000
        assert fleet.wakes(1) is None

    with database.begin() as connection:
        of_101 = children(connection, 101)
    assert [child.mail_job_id for child in of_101] == list(range(104, 112))
    assert [
        n for child in of_101 for n in range(child.first_message or 0, (child.last_message or 0) + 1)
    ] == list(range(1, 11_001))


@pytest.mark.rule("4.1")
def test_the_fleet_is_of_the_types_that_the_example_says() -> None:
    types = {number: mailcaster_type(parameters) for number, parameters in FLEET.items()}
    assert types[1] is MailcasterType.SMALL_JOB_ONLY
    assert {types[n] for n in (2, 3)} == {MailcasterType.SMALL_JOB_PRIORITY}
    assert {types[n] for n in (4, 5, 6, 7)} == {MailcasterType.LARGE_JOB_PRIORITY}


def _found(claim: Claim | None) -> tuple[int, MailJobKind, int] | None:
    return None if claim is None else (claim.mail_job_id, claim.kind, claim.size)

"""The installation of a run, in PostgreSQL and in the model, and the means to try things on both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import text

from mail_orchestration.dispatch.claims import Claim, HeldClaim
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import ClaimLost, StateConflict
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import DAY, HANG_AFTER_S, NOW
from tests.integration.queue_model.jobs import Job, ReleaseModel
from tests.integration.queue_model.model import QueueModel

CAMPAIGNS = ("spring", "autumn")
HANG_AFTER = timedelta(seconds=HANG_AFTER_S)

picks = st.integers(0, 47)


@dataclass(eq=False)
class Holder:
    """A mailcaster with a claim, which it may have lost without knowing."""

    claim: Claim
    held: HeldClaim
    job: Job


class QueueWorld(RuleBasedStateMachine):
    """An installation of its own, with two campaigns."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.holders: list[Holder] = []
        self.fences: dict[int, int] = {}
        self.known_fences: dict[int, int] = {}
        self.releases: list[ReleaseModel] = []
        self.seen: dict[int, object] = {}
        self.now = NOW
        self.model = QueueModel(NOW, hang_after=HANG_AFTER, silent_after=timedelta(seconds=20))
        with database.begin() as connection:
            connection.execute(text("SELECT ensure_day_partitions(:day)"), {"day": DAY})
            self.installation_id = connection.scalar(
                text(
                    "INSERT INTO installation (name) SELECT 'run ' || count(*) FROM installation "
                    "RETURNING installation_id"
                )
            )
            self.campaigns = list(
                connection.scalars(
                    text(
                        "INSERT INTO campaign (installation_id, name, digest) "
                        "SELECT :id, name, '' FROM unnest(CAST(:names AS text[])) AS name RETURNING campaign_id"
                    ),
                    {"id": self.installation_id, "names": list(CAMPAIGNS)},
                )
            )
        self.model.campaigns = dict.fromkeys(self.campaigns, "live")

    def _in(self, *states: MailJobState) -> list[Job]:
        return [job for job in self.model.jobs.values() if job.state in states]

    def _pick(self, pick: int, *states: MailJobState) -> Job:
        found = self._in(*states)
        return found[pick % len(found)]

    def _mostly(self, pick: int, *states: MailJobState) -> Job:
        """One in these states if there is any; at times another one all the same."""
        found = self._in(*states) if pick % 4 else []
        among = found or list(self.model.jobs.values())
        return among[pick // 4 % len(among)]

    @contextmanager
    def _refused_unless(self, allowed: bool) -> Iterator[None]:
        """What the block does is refused with ClaimLost, unless it is allowed."""
        try:
            yield
        except ClaimLost:
            assert not allowed, "refused, although the claim holds"
        else:
            assert allowed, "a lost claim was obeyed"

    @contextmanager
    def _conflict_if(self, refused: bool) -> Iterator[None]:
        try:
            yield
        except StateConflict:
            assert refused
        else:
            assert not refused

    def _execute(self, statement: str, **binds: object) -> None:
        with self.database.begin() as connection:
            connection.execute(text(statement), binds)

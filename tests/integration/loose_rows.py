"""Loose mails for tests: retries of the messages of one release, as deferred results make them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import text

from mail_orchestration.dispatch.loose_mails import ReservedMail, ensure_delivery_log, reserve_loose_mails
from mail_orchestration.feedback.loose_results import LooseResult, record_loose_results
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.loose_mail_states import LooseMailKind, LooseMailState
from tests.integration.dispatch_rows import DAY, NOW, World

LEASE_S = 1800.0


@dataclass
class LooseWorld:
    """An installation with one small mail job in a mailcaster's hands, and loose mails."""

    database: Database
    world: World = field(init=False)
    mail_job_id: int = field(init=False)

    def __post_init__(self) -> None:
        self.world = World(self.database)
        with self.database.begin() as connection:
            ensure_delivery_log(connection, NOW)
        self.mail_job_id = self.world.begun(9, kind="small")
        self.world.add_messages(self.mail_job_id, 9)

    def add(
        self,
        *message_nos: int,
        state: LooseMailState = LooseMailState.SCHEDULED,
        priority: int = 0,
        due_at: datetime = NOW,
    ) -> list[int]:
        """A retry of each of these messages, whose results say so; returns their numbers."""
        with self.database.begin() as connection:
            binds = {"id": self.mail_job_id, "day": DAY, "numbers": list(message_nos), "now": NOW}
            connection.execute(
                text(
                    "INSERT INTO result (released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, "
                    "  outcome, relay) "
                    "SELECT :day, :id, n, :id, n, :now, 'deferred', 'relay' "
                    "FROM unnest(CAST(:numbers AS integer[])) AS n"
                ),
                binds,
            )
            return list(
                connection.scalars(
                    text(
                        "INSERT INTO loose_mail (installation_id, kind, state, priority, due_at, attempts, "
                        "  campaign_id, contact_id, address, released_on, release_id, message_no, mail_job_id, "
                        "  result_no, last_outcome) "
                        "SELECT :installation, 'retry', CAST(:state AS loose_mail_state), :priority, :due_at, 1, "
                        "  :campaign, n, 'x@example.org', :day, :id, n, :id, 1, 'deferred' "
                        "FROM unnest(CAST(:numbers AS integer[])) WITH ORDINALITY AS n (n, place) ORDER BY place "
                        "RETURNING loose_mail_id"
                    ),
                    binds
                    | {
                        "installation": self.world.installation_id,
                        "campaign": self.world.campaign_id,
                        "state": state.value,
                        "priority": priority,
                        "due_at": due_at,
                    },
                )
            )

    def reserve(
        self, worker: str = "w", *, most: int = 100, at: datetime = NOW, is_free: bool = True
    ) -> list[ReservedMail]:
        with self.database.begin() as connection:
            return reserve_loose_mails(
                connection,
                self.world.installation_id,
                worker,
                kinds=list(LooseMailKind),
                most=most,
                for_s=LEASE_S,
                now=at,
                began=steady_seconds(),
                is_free=is_free,
            )

    def write(
        self,
        mail: ReservedMail,
        outcome: Outcome = Outcome.ACCEPTED,
        enters: LooseMailState | None = None,
        *,
        at: datetime = NOW,
    ) -> bool:
        """The result of an attempt. Returns whether it was written."""
        assert mail.of_release is not None
        result = DeliveryResult(mail.loose_mail_id, mail.contact_id, outcome, 250, None, None, "relay", at)
        with self.database.begin() as connection:
            written = record_loose_results(
                connection,
                [
                    LooseResult(
                        loose_mail_id=mail.loose_mail_id,
                        fence=mail.fence,
                        release_id=mail.of_release.release_id,
                        mail_job_id=mail.of_release.mail_job_id,
                        result=result,
                        enters=enters,
                        due_at=None if enters is None else at + timedelta(minutes=30),
                        is_counted=True,
                        code=None,
                        description=None,
                    )
                ],
            )
        return mail.loose_mail_id in written

    def states(self) -> dict[int, str]:
        """Loose mail → state."""
        with self.database.begin() as connection:
            rows = connection.execute(text("SELECT loose_mail_id, state FROM loose_mail")).all()
        return {row.loose_mail_id: row.state for row in rows}

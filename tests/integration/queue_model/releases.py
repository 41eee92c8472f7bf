"""Releases come and campaigns change while a run goes on."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from sqlalchemy import text

from mail_orchestration.dispatch.campaigns import delete_campaign, pause_campaign, resume_campaign
from mail_orchestration.dispatch.mail_jobs import queue_mail_job, transition
from mail_orchestration.dispatch.releases import register_campaign
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import DAY
from tests.integration.queue_model.jobs import Job, ReleaseModel
from tests.integration.queue_model.world import CAMPAIGNS, QueueWorld, picks

_S = MailJobState
SMALL_BELOW = 10


class WithReleases(QueueWorld):
    """What becomes of a campaign, up to the queue."""

    @initialize(small=st.integers(1, 9), large=st.integers(10, 60))
    def begin(self, small: int, large: int) -> None:
        """Something to do, so that short runs show something too."""
        for messages in (small, large):
            self.release(0, messages, 0, 0, None, _S.QUEUED)

    @rule(
        campaign=st.integers(0, 1),
        messages=st.one_of(st.integers(10, 60), st.integers(0, 9)),
        bypassed=st.integers(0, 3),
        priority=st.sampled_from([0, 0, 0, 1]),
        expires_in_h=st.sampled_from([None, None, None, 1, 5, 60]),
        becomes=st.sampled_from([_S.QUEUED] * 6 + [_S.QUEUING, _S.FAILED]),
    )
    @precondition(lambda self: len(self.releases) < 6)
    def release(
        self,
        campaign: int,
        messages: int,
        bypassed: int,
        priority: int,
        expires_in_h: int | None,
        becomes: MailJobState,
    ) -> None:
        self._revive(campaign)
        expires_at = None if expires_in_h is None else self.now + timedelta(hours=expires_in_h)
        campaign_id = self.campaigns[campaign]
        kind = "small" if messages + bypassed < SMALL_BELOW else "parent"
        number = self._insert_release(campaign_id, kind, messages, bypassed, priority, expires_at)
        release = ReleaseModel(number, campaign_id, messages, expires_at)
        job = Job(number=number, release=release, kind=kind, state=_S.QUEUING, priority=priority)
        self.releases.append(release)
        self.model.jobs[number] = job
        if becomes is _S.QUEUED:
            self._queue(job)
        elif becomes is _S.FAILED:
            with self.database.begin() as connection:
                transition(connection, number, _S.QUEUING, _S.FAILED, "a template is broken", self.now)
            job.enter(_S.FAILED)

    @rule(pick=picks)
    @precondition(lambda self: self._in(_S.QUEUING))
    def queue(self, pick: int) -> None:
        self._queue(self._pick(pick, _S.QUEUING))

    def _queue(self, job: Job) -> None:
        with self.database.begin() as connection:
            entered = queue_mail_job(connection, job.number, self.now)
        if not job.release.messages:
            job.enter(_S.STOPPED)
        else:
            job.enter(job.asked or (_S.QUEUED if job.kind == "small" else _S.P_QUEUED))
            job.asked = None
            job.first, job.last, job.queued_at = 1, job.release.messages, self.now
            job.next = 1 if job.kind == "parent" else None
        assert entered is job.state

    @rule(
        campaign=st.integers(0, 1),
        change=st.sampled_from(["pause", "pause", "resume", "resume", "resume", "delete"]),
    )
    def change_campaign(self, campaign: int, change: str) -> None:
        match change:
            case "pause":
                self._pause(campaign)
            case "resume":
                self._resume(campaign)
            case _:
                self._delete(campaign)

    def _pause(self, campaign: int) -> None:
        number = self.campaigns[campaign]
        with (
            self._conflict_if(self.model.campaigns[number] == "deleted"),
            self.database.begin() as connection,
        ):
            pause_campaign(connection, self.installation_id, CAMPAIGNS[campaign])
            self.model.campaigns[number] = "paused"

    def _resume(self, campaign: int) -> None:
        number = self.campaigns[campaign]
        with (
            self._conflict_if(self.model.campaigns[number] == "deleted"),
            self.database.begin() as connection,
        ):
            resume_campaign(connection, self.installation_id, CAMPAIGNS[campaign])
            self.model.campaigns[number] = "live"

    def _delete(self, campaign: int) -> None:
        """What waits is STOPPED. While it is paused and holds something that has begun it is kept."""
        number = self.campaigns[campaign]
        is_kept = self.model.campaigns[number] == "paused" and bool(self.model.begun(number))
        with self._conflict_if(is_kept), self.database.begin() as connection:
            change = delete_campaign(connection, self.installation_id, CAMPAIGNS[campaign], self.now)
            self.model.campaigns[number] = "deleted"
            assert list(change.stopped) == [job.number for job in self.model.waiting(number)]
            for job in self.model.waiting(number):
                job.enter(_S.STOPPED)

    def _revive(self, campaign: int) -> None:
        """A release makes a campaign known again that was deleted; a paused one stays paused."""
        with self.database.begin() as connection:
            number, state = register_campaign(
                connection,
                self.installation_id,
                name=CAMPAIGNS[campaign],
                state="live",
                digest=b"",
                now=self.now,
            )
        assert number == self.campaigns[campaign]
        if self.model.campaigns[number] == "deleted":
            self.model.campaigns[number] = "live"
        assert state == self.model.campaigns[number]

    def _insert_release(
        self, campaign_id: int, kind: str, messages: int, bypassed: int, priority: int, expires_at: object
    ) -> int:
        """A release that is resolved and assembled, its mail job QUEUING; the last recipients are bypassed."""
        with self.database.begin() as connection:
            created = connection.execute(
                STATEMENTS["create_mail_job"],
                {"installation_id": self.installation_id, "priority": priority, "now": self.now},
            )
            number = int(created.scalar_one())
            connection.execute(
                _INSERT_RELEASE,
                {
                    "id": number,
                    "campaign_id": campaign_id,
                    "kind": kind,
                    "messages": messages,
                    "bypassed": bypassed,
                    "now": self.now,
                    "day": DAY,
                    "expires_at": expires_at,
                },
            )
        return number


_INSERT_RELEASE = text(
    """
    WITH binds AS (
        SELECT CAST(:id AS bigint) AS id, CAST(:messages AS integer) AS messages,
            CAST(:bypassed AS integer) AS bypassed, CAST(:now AS timestamptz) AS now, CAST(:day AS date) AS day
    ),
    kind AS (
        UPDATE mail_job SET kind = CAST(:kind AS mail_job_kind) FROM binds WHERE mail_job_id = binds.id
    ),
    release AS (
        INSERT INTO release (release_id, campaign_id, released_at, released_on, expires_at, files, digest,
            content_digest, audience_ids, resolved_at, audience_rows, duplicates, recipient_count, assembled_up_to,
            assembled_at, message_count, bypassed_count)
        SELECT id, CAST(:campaign_id AS integer), now, day, CAST(:expires_at AS timestamptz), '{}', '', '', '{}', now,
            messages + bypassed, 0, messages + bypassed, messages + bypassed, now, messages, bypassed
        FROM binds
    ),
    recipients AS (
        INSERT INTO recipient (released_on, release_id, recipient_no, audience_id, contact_id, bypass_reason)
        SELECT day, id, n, 1, n, CASE WHEN n > messages THEN 'manual' END
        FROM binds, generate_series(1, messages + bypassed) AS n
    )
    INSERT INTO assembled_message
        (released_on, release_id, message_no, recipient_no, contact_id, size, place_in_block, address)
    SELECT day, id, n, n, n, 5, 0, 'r' || n || '@example.org'
    FROM binds, generate_series(1, messages) AS n
    """
)

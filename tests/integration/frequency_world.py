"""An installation with a frequency policy, whose releases pass the gate and whose results are written straight in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mail_orchestration.audience.importing import ensure_audience, ensure_installation
from mail_orchestration.audience.resolving import resolve_recipients
from mail_orchestration.feedback.frequency_figures import wrong_places
from mail_orchestration.frequency import Upkeep, bring_up_to_date, foresee_policy
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.kernel.tokens import SigningKeys
from tests.integration.frequency_faults import COUNTERS_THAT_ARE_WRONG

_numbers = count(1)
NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)
Rules = Sequence[tuple[int, int]]
"""(max_mails, days)."""


def days_later(days: float) -> datetime:
    """Noon of May 20, and so many days."""
    return NOON + timedelta(days=days)


def policy(rules: Rules, **section: Any) -> dict[str, Any]:
    """The section of the settings."""
    return {"enabled": True, "rules": [{"max_mails": most, "days": days} for most, days in rules], **section}


@pytest.fixture(scope="module")
def database(
    create_database: Callable[..., str], migrated_template: str, short_folder: Path
) -> Iterator[Database]:
    """One for all tests of a module."""
    url = create_database(migrated_template)
    with Database.open(url, short_folder, application_name="tests") as opened:
        yield opened


class FrequencyWorld:
    """Contacts 1 … n of an installation of its own; a contact's number is its place among them."""

    def __init__(
        self,
        database: Database,
        rules: Rules = ((3, 7),),
        *,
        contacts: int = 3,
        time_zone: str = "UTC",
        **section: Any,
    ) -> None:
        settings = Settings.model_validate({"time_zone": time_zone, "frequency": policy(rules, **section)})
        with database.begin() as connection:
            # One database serves many tests: each has an installation of its own in it.
            installation_id = ensure_installation(connection, f"installation {next(_numbers)}")
            self._audience = ensure_audience(connection, installation_id, "everybody")
            self.contact_ids = list(
                connection.scalars(
                    text(
                        "INSERT INTO contact (installation_id, address, address_key) "
                        "SELECT :i, 'r' || n, 'r' || n FROM generate_series(1, :n) AS n ORDER BY n RETURNING contact_id"
                    ),
                    {"i": installation_id, "n": contacts},
                )
            )
        self.number = {contact_id: no for no, contact_id in enumerate(self.contact_ids, start=1)}
        self.inst = Installation(
            settings=settings,
            database=database,
            installation_id=installation_id,
            keys=SigningKeys({"t1": bytes(32)}),
        )

    def wishes(self, rules: Rules | None = None, **section: Any) -> None:
        """The settings say something else from now on; no rules: the policy is not enabled."""
        told = policy(rules, **section) if rules is not None else {"enabled": False}
        settings = Settings.model_validate({"time_zone": self.inst.settings.time_zone, "frequency": told})
        self.inst = replace(self.inst, settings=settings)

    def night(self, at: datetime) -> Upkeep:
        """The close of the day."""
        return bring_up_to_date(self.inst, now=at)

    def released(
        self,
        at: datetime,
        to: Collection[int] | None = None,
        *,
        campaign: str = "letter",
        upkeep: bool = True,
        **columns: Any,
    ) -> int:
        """A release to these contacts (all), resolved after the counters were brought up to date; its number."""
        if upkeep:
            bring_up_to_date(self.inst, now=at)
        release_id = self.made(at, to, campaign=campaign, **columns)
        self.resolved(release_id, at, is_dry_run=bool(columns.get("is_dry_run")))
        return release_id

    def resolved(self, release_id: int, at: datetime, *, is_dry_run: bool = False) -> None:
        """Dedup and the gate."""
        resolve_recipients(
            self.inst.database,
            release_id,
            small_audience_threshold=1000,
            time_zone=self.inst.settings.zone,
            wished=foresee_policy(self.inst, now=at) if is_dry_run else None,
            now=at,
        )

    def made(
        self, at: datetime, to: Collection[int] | None = None, *, campaign: str = "letter", **columns: Any
    ) -> int:
        """The same before dedup."""
        key = {"i": self.inst.installation_id, "at": at, "name": campaign, **columns}
        day = day_of(at, self.inst.settings.zone)
        more = "".join(f", {name}" for name in columns)
        with self.inst.database.begin() as connection:
            connection.execute(text("SELECT ensure_day_partitions(:day)"), {"day": day})
            release_id = connection.scalars(
                text(
                    "INSERT INTO mail_job (release_id, installation_id, state) "
                    "VALUES (currval(pg_get_serial_sequence('mail_job', 'mail_job_id')), :i, 'QUEUING') "
                    "RETURNING mail_job_id"
                ),
                key,
            ).one()
            audience_id = ensure_audience(connection, self.inst.installation_id, f"of {release_id}")
            connection.execute(
                text(
                    "INSERT INTO audience_member (audience_id, contact_id, import_id) "
                    "SELECT :a, contact_id, 1 FROM unnest(CAST(:to AS bigint[])) AS contact_id"
                ),
                {"a": audience_id, "to": [self.contact_ids[no - 1] for no in to or self.number.values()]},
            )
            connection.execute(
                text(
                    "WITH c AS (INSERT INTO campaign (installation_id, name, digest) VALUES (:i, :name, '') "
                    "ON CONFLICT (installation_id, name) DO UPDATE SET digest = '' RETURNING campaign_id) "
                    "INSERT INTO release (release_id, campaign_id, released_at, released_on, files, digest, "
                    f"content_digest, audience_ids{more}) "
                    f"SELECT :r, campaign_id, :at, :day, '{{}}', '', '', ARRAY[CAST(:a AS int)]"
                    f"{''.join(f', :{name}' for name in columns)} FROM c"
                ),
                {**key, "r": release_id, "day": day, "a": audience_id},
            )
        return int(release_id)

    def sent(
        self,
        release_id: int,
        at: datetime,
        outcomes: Mapping[int, str] | str = "accepted",
        *,
        ended_at: datetime | None = None,
    ) -> None:
        """Every recipient who passed the gate has a result, and the mail job has FINISHED."""
        for no in self.passed(release_id):
            word = outcomes if isinstance(outcomes, str) else outcomes.get(no, "accepted")
            for result_no, outcome in enumerate(word.split(), start=1):
                self.result(release_id, no, outcome, at, result_no)
        self.becomes(release_id, "FINISHED", ended_at or at)

    def result(self, release_id: int, no: int, outcome: str, at: datetime, result_no: int = 1) -> None:
        """One result of the message to a contact."""
        self.execute(
            "INSERT INTO result (released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, "
            "relay, result_no, supersedes) SELECT released_on, release_id, recipient_no, release_id, contact_id, :at, "
            "CAST(:outcome AS outcome), 'relay', :result_no, "
            "CASE WHEN :result_no > 1 THEN CAST('deferred' AS outcome) END "
            "FROM recipient WHERE release_id = :r AND contact_id = :contact",
            r=release_id,
            contact=self.contact_ids[no - 1],
            outcome=outcome,
            at=at,
            result_no=result_no,
        )

    def becomes(self, release_id: int, state: str, at: datetime) -> None:
        """The release's mail job is in this state since a moment."""
        self.execute(
            "UPDATE mail_job SET state = CAST(:state AS mail_job_state), kind = 'small', first_message = 1, "
            "last_message = 1000, queued_at = coalesce(queued_at, :at), mailcaster = 'm1', heartbeat_at = :at, "
            "ended_at = CASE WHEN :state IN ('FINISHED', 'FAILED', 'STOPPED') THEN CAST(:at AS timestamptz) END "
            "WHERE mail_job_id = :r",
            r=release_id,
            state=state,
            at=at,
        )

    def passed(self, release_id: int) -> set[int]:
        """Who passed the gate."""
        rows = self.rows(
            "SELECT p.contact_id FROM recipient AS p "
            "LEFT JOIN bypass AS b USING (released_on, release_id, recipient_no) "
            "WHERE p.release_id = :r AND p.bypass_reason IS NULL AND b.stage IS NULL",
            r=release_id,
        )
        return {self.number[contact_id] for (contact_id,) in rows}

    def bypassed(self, release_id: int) -> dict[int, tuple[str, str]]:
        """Whom the gate stopped, with reason and rule."""
        rows = self.rows(
            "SELECT p.contact_id, b.reason, b.detail FROM recipient AS p "
            "JOIN bypass AS b USING (released_on, release_id, recipient_no) "
            "WHERE p.release_id = :r AND b.stage = 'frequency'",
            r=release_id,
        )
        return {self.number[contact_id]: (reason, detail) for contact_id, reason, detail in rows}

    def places(self) -> dict[int, int]:
        """Places by contact, of those who have any."""
        rows = self.rows(
            "SELECT contact_id, places FROM frequency_counter WHERE installation_id = :i AND places <> 0",
            i=self.inst.installation_id,
        )
        return {self.number[contact_id]: places for contact_id, places in rows}

    def waiting(self) -> set[tuple[int, int]]:
        """The mails that wait: the release that each was held in, and for whom."""
        rows = self.rows(
            "SELECT release_id, contact_id FROM held_mail WHERE installation_id = :i",
            i=self.inst.installation_id,
        )
        return {(release_id, self.number[contact_id]) for release_id, contact_id in rows}

    def releases_of_held_mails(self) -> set[int]:
        """The releases that send what waited."""
        rows = self.rows(
            "SELECT release_id FROM release JOIN mail_job USING (release_id) "
            "WHERE held_from IS NOT NULL AND installation_id = :i",
            i=self.inst.installation_id,
        )
        return {release_id for (release_id,) in rows}

    def counts(self, release_id: int) -> bool:
        """Whether a release counts."""
        [[counts]] = self.rows("SELECT counts FROM release WHERE release_id = :r", r=release_id)
        return bool(counts)

    def held(self) -> int:
        """How many mails wait."""
        [[waiting]] = self.rows(
            "SELECT count(*) FROM held_mail WHERE installation_id = :i", i=self.inst.installation_id
        )
        return int(waiting)

    def log(self) -> dict[tuple[date, int], tuple[int, int]]:
        """(day, contact) → mails, and those of them that had a place."""
        rows = self.rows(
            "SELECT day, contact_id, mails, placed FROM daily_mail_count WHERE installation_id = :i",
            i=self.inst.installation_id,
        )
        return {(day, self.number[contact_id]): (mails, placed) for day, contact_id, mails, placed in rows}

    def faults(self) -> list[Any]:
        """Contacts whose counters are not what log, gate and places given back make of them."""
        with self.inst.database.begin() as connection:
            assert wrong_places(connection, self.inst.installation_id, self.inst.settings.zone) == 0
        return self.rows(
            COUNTERS_THAT_ARE_WRONG,
            i=self.inst.installation_id,
        )

    def execute(self, sql: str, **binds: Any) -> None:
        """Do something to the rows."""
        with self.inst.database.begin() as connection:
            connection.execute(text(sql), binds)

    def rows(self, sql: str, **binds: Any) -> list[Any]:
        """What a query finds."""
        with self.inst.database.begin() as connection:
            return [tuple(row) for row in connection.execute(text(sql), binds)]

"""Dedup, verify and filter: a release's audiences become its recipients (spec 1.3, 1.4, 1.5, 1.7).

All of it is one transaction: it is done or it never was. A recipient who must not get the mail stays in the books with
a bypass reason. Checks come in the order of Direct Mailer's stages, and the first that fails gives the reason:

    bad_body_format                 verify: not text, MIME or MHTML
    missing_attribute:<name>        verify: an attribute that the campaign requires is absent or blank
    opted_out, hard_bounce, complaint, manual      filter: suppressed altogether
    opted_out_of_topic              filter: suppressed for the release's topic
    excluded_audience               filter: member of an audience that the release excludes
    duplicate                       filter: the same content was queued lately (see `duplicates`)
    (a component's own)             custom components of the stages preprocess and filter, in this order
    held, discarded, expired        the frequency policy forbids it (see `frequency_gate`)

"Address present" is a matter of the tables: a contact cannot be without one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Row

from mail_orchestration.audience.duplicates import DUPLICATE, bypass_duplicates
from mail_orchestration.audience.frequency_gate import WishedPolicy, pass_frequency_gate
from mail_orchestration.audience.handover import read_recipients
from mail_orchestration.audience.rows import clean_name
from mail_orchestration.kernel.bulk import copy_rows
from mail_orchestration.kernel.components import Component, run_components
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import NotFound, StateConflict
from mail_orchestration.kernel.partitions import partition_of
from mail_orchestration.kernel.planner import analyze
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobKind, MailJobState

COMPONENT_BATCH = 1_000
"""Recipients in one call of a component."""
AUDIENCE_STAGES = ("preprocess", "filter")
"""The stages whose components run here, in their order."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveSummary:
    """What dedup came to: audience_rows = duplicates + recipients, of whom to_assemble are not bypassed."""

    audience_rows: int
    duplicates: int
    recipients: int
    bypassed: dict[str, int]
    """By reason."""
    is_small: bool
    """Fewer recipients to be written to than the dispatcher's threshold (spec 3.1)."""

    @property
    def to_assemble(self) -> int:
        """How many are to be written to."""
        return self.recipients - sum(self.bypassed.values())


def resolve_recipients(
    database: Database,
    release_id: int,
    *,
    small_audience_threshold: int,
    required_attributes: Sequence[str] = (),
    components: Sequence[Component] = (),
    history: timedelta | None = None,
    time_zone: ZoneInfo,
    wished: WishedPolicy | None = None,
    now: datetime,
) -> ResolveSummary:
    """Make the recipients of a release whose mail job is QUEUING. Owns its transactions, on one connection.

    Fixes the mail job's kind, or makes it STOPPED when nobody is left. A release that is resolved already is only
    counted again, so the call may be repeated after any crash. Raises NotFound, StateConflict (another session resolves
    it, or its mail job left QUEUING), ComponentFailed.

    Days of the frequency policy are those of `time_zone`; a dry run foresees the one that is `wished`. Within `history`
    the same content is not queued for a contact again (spec 6.6); None: that is not looked at. `components` of other
    stages than preprocess and filter are not called. They run inside the transaction.
    """
    # The lock goes with this session: it is free again when we are done, or dead.
    with database.session() as connection:
        with connection.begin():
            release = _begin(connection, release_id, now)
        if release.resolved_at is None:
            crash_point("dedup_begun")
            with connection.begin():
                audience_rows, recipients = _insert_recipients(
                    connection, release_id, release, required_attributes
                )
                crash_point("dedup_inserted")
                earlier = (
                    bypass_duplicates(connection, release_id, release.released_on, history) if history else []
                )
                _run_components(connection, release_id, release.released_on, components)
                pass_frequency_gate(connection, release_id, time_zone, now, wished)
                counted = _counted(connection, release_id, release.released_on, recipients)
                summary = _settle(
                    connection,
                    release_id,
                    release,
                    audience_rows,
                    counted,
                    earlier,
                    small_audience_threshold,
                    now,
                )
                crash_point("dedup_settled")
            crash_point("dedup_committed")
            return summary
        with connection.begin():
            return _summary(connection, release_id, release.released_on)


def mark_interrupted(database: Database, now: datetime) -> list[int]:
    """Mark INTERRUPTED the mail jobs whose dedup was cut off, and return their numbers (spec 1.3, 3.2).

    Cut off means that it began, did not end, and no session holds the release: slow work is left alone.
    """
    interrupted = []
    with database.begin() as connection:
        suspects = connection.scalars(STATEMENTS["find_unresolved_begun"]).all()
    for release_id in suspects:
        key = {"release_id": release_id}
        with database.begin() as connection:
            is_free = connection.scalar(STATEMENTS["try_lock_interrupted"], key)
            if is_free and connection.execute(STATEMENTS["interrupt_mail_job"], key).rowcount:
                crash_point("clean_marked")
                interrupted.append(release_id)
    if interrupted:
        _log.warning(
            "dedup was cut off at %s: mail jobs marked INTERRUPTED: %s", now.isoformat(), interrupted
        )
    return interrupted


def _begin(connection: Connection, release_id: int, now: datetime) -> Row[Any]:
    """Take the release's lock and note that dedup begins."""
    key = {"release_id": release_id}
    if not connection.scalar(STATEMENTS["try_lock_resolving"], key):
        raise StateConflict(f"mail job {release_id} is being resolved by another session")
    release = connection.execute(STATEMENTS["find_release_to_resolve"], key).one_or_none()
    if release is None:
        raise NotFound(f"there is no release {release_id}")
    if release.resolved_at is None:
        if release.state != MailJobState.QUEUING:
            raise StateConflict(
                f"mail job {release_id} is {release.state}, not QUEUING: it cannot be resolved"
            )
        connection.execute(STATEMENTS["begin_resolving"], {**key, "now": now})
    return release


def _insert_recipients(
    connection: Connection, release_id: int, release: Row[Any], required_attributes: Sequence[str]
) -> tuple[int, int]:
    """Dedup, verify and filter in SQL; the number of rows before dedup, and after."""
    connection.execute(STATEMENTS["set_sort_memory"])
    audience_rows, recipients = connection.execute(
        STATEMENTS["insert_recipients"],
        {
            "released_on": release.released_on,
            "release_id": release_id,
            "audience_ids": release.audience_ids,
            "excluded_audience_ids": release.excluded_audience_ids,
            "topic": release.topic,
            "required": [clean_name(name, 0) for name in required_attributes],
        },
    ).one()
    analyze(connection, partition_of("recipient", release.released_on))
    return int(audience_rows), int(recipients)


def _run_components(
    connection: Connection, release_id: int, released_on: date, components: Sequence[Component]
) -> None:
    """Let the custom components of our stages see every recipient who is left, and store whom they bypass."""
    ours = [each for stage in AUDIENCE_STAGES for each in components if each.stage == stage]
    if not ours:
        return
    for batch in read_recipients(connection, released_on, release_id, 0, COMPONENT_BATCH):
        rows = [
            (released_on, release_id, bypass.recipient_no, component.stage, bypass.reason, bypass.detail)
            for component, bypass in run_components(ours, batch.recipients)
        ]
        if rows:
            copy_rows(connection, STATEMENTS["copy_component_bypasses"], rows)


def _counted(
    connection: Connection, release_id: int, released_on: date, recipients: int
) -> Counter[str | None]:
    """The recipients, so many, by bypass reason; those whom nothing has bypassed under None."""
    key = {"release_id": release_id, "released_on": released_on}
    counted: Counter[str | None] = Counter({None: recipients})
    early = connection.execute(STATEMENTS["count_early_bypasses"], key)
    later = connection.execute(STATEMENTS["count_later_bypasses"], key)
    for row in (*early, *later):
        counted[row.reason] += row.recipients
        counted[None] -= row.recipients
    return counted


def _settle(
    connection: Connection,
    release_id: int,
    release: Row[Any],
    audience_rows: int,
    counted: Counter[str | None],
    earlier: Sequence[int],
    threshold: int,
    now: datetime,
) -> ResolveSummary:
    """Write the release's figures, fix the mail job's kind, or stop it when nobody is left."""
    recipients, left = counted.total(), counted[None]
    kind = MailJobKind.SMALL if left < threshold else MailJobKind.PARENT
    figures = {
        "release_id": release_id,
        "now": now,
        "audience_rows": audience_rows,
        "duplicates": audience_rows - recipients,
        "recipient_count": recipients,
        "bypassed_count": recipients - left,
    }
    connection.execute(STATEMENTS["finish_resolving"], figures)
    bypassed = _reasons(counted)
    outcome = {
        "release_id": release_id,
        "now": now,
        "kind": kind.value,
        "state": (MailJobState.QUEUING if left else MailJobState.STOPPED).value,
        "reason": "" if left else _why_nobody(bypassed, earlier, release.is_dry_run),
    }
    if connection.execute(STATEMENTS["fix_kind"], outcome).rowcount != 1:
        raise StateConflict(f"mail job {release_id} left QUEUING while it was resolved")
    return ResolveSummary(
        audience_rows=audience_rows,
        duplicates=audience_rows - recipients,
        recipients=recipients,
        bypassed=bypassed,
        is_small=kind is MailJobKind.SMALL,
    )


def _reasons(counted: Counter[str | None]) -> dict[str, int]:
    return {reason: count for reason, count in counted.items() if reason is not None}


def _why_nobody(bypassed: dict[str, int], earlier: Sequence[int], is_dry_run: bool) -> str:
    if not bypassed:
        return "no recipients: the audiences are empty"
    counted = ", ".join(f"{count} {reason}" for reason, count in bypassed.items())
    nobody = f"no recipients: all are bypassed ({counted})"
    if "held" in bypassed and not is_dry_run:
        nobody += "; whoever is held waits in the frequency queue"
    if DUPLICATE not in bypassed:
        return nobody
    numbers = ", ".join(map(str, earlier))
    return (
        f"{nobody}; the same content was queued, or is held, for them by mail job {numbers}: restart that one if it "
        "was cut off, or release with --again to send it once more"
    )


def _summary(connection: Connection, release_id: int, released_on: date) -> ResolveSummary:
    found = connection.execute(STATEMENTS["find_resolved"], {"release_id": release_id}).one()
    return ResolveSummary(
        audience_rows=found.audience_rows,
        duplicates=found.duplicates,
        recipients=found.recipient_count,
        bypassed=_reasons(_counted(connection, release_id, released_on, found.recipient_count)),
        is_small=found.kind == MailJobKind.SMALL,
    )

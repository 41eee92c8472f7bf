"""Mail jobs: created, queued, moved from state to state, and read. Who works on them is in `claims`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row

from mail_orchestration.dispatch.holds import is_held
from mail_orchestration.dispatch.search_order import WorkKind, search_order
from mail_orchestration.kernel.errors import NotFound, StateConflict
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import TRANSITIONS, MailJobKind, MailJobState

LEAST_MEASURED = 200
"""A mail job of fewer messages says little of a mailcaster's speed."""
DRY_RUN = "dry run: nothing was sent"
"""Why a release that was only tried out is STOPPED."""
HANDED_BACK_AT = datetime.fromtimestamp(0, UTC)
"""The heartbeat of a RUNNING mail job whose holder handed it back in good order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailJob:
    """One mail job as people see it."""

    mail_job_id: int
    release_id: int
    installation_id: int
    campaign: str | None
    """None until the release is frozen."""
    parent_id: int | None
    recovers_id: int | None
    kind: MailJobKind | None
    """None until dedup fixed it (spec 3.1)."""
    state: MailJobState
    asked_state: MailJobState | None
    """What the operator asked for, and it enters when it leaves this state (spec 5.6)."""
    reason: str
    """Why it is in this state, where that needs saying; ''."""
    priority: int
    created_at: datetime
    queued_at: datetime | None
    """That of the first mail job of a recovery chain; a child has its parent's."""
    started_at: datetime | None
    ended_at: datetime | None
    first_message: int | None
    last_message: int | None
    next_message: int | None
    """Parents: the first message that is in no child yet."""
    mailcaster: str | None
    heartbeat_at: datetime | None
    accepted: int
    """This and the next four: as of the last progress figures; of all children for a parent."""
    deferred: int
    rejected: int
    uncertain: int
    stopped: int

    @property
    def message_count(self) -> int:
        """How many messages it covers; 0 before it is queued."""
        if self.first_message is None or self.last_message is None:
            return 0
        return self.last_message - self.first_message + 1

    @property
    def is_handed_back(self) -> bool:
        """Nobody works on it: its holder went in good order, and it waits to be taken up."""
        return self.state is MailJobState.RUNNING and self.heartbeat_at == HANDED_BACK_AT

    @property
    def sent(self) -> int:
        """How many messages have a result, as of the last progress figures."""
        return self.accepted + self.deferred + self.rejected + self.uncertain + self.stopped


_FIELDS = tuple(field.name for field in fields(MailJob))


def create_mail_job(connection: Connection, installation_id: int, priority: int, now: datetime) -> int:
    """A mail job in state QUEUING for a new release, which takes the same number."""
    created = connection.execute(
        STATEMENTS["create_mail_job"], {"installation_id": installation_id, "priority": priority, "now": now}
    )
    return int(created.scalar_one())


def queue_mail_job(connection: Connection, release_id: int, now: datetime) -> MailJobState:
    """QUEUING → QUEUED or P_QUEUED, by the kind that dedup fixed, or → STOPPED when there is no message (spec
    1.7), and for a dry run.

    Raises StateConflict when it is in another state or not assembled, NotFound when there is no such release.
    """
    row = connection.execute(STATEMENTS["lock_queuing_release"], {"release_id": release_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no release {release_id}")
    if row.state != MailJobState.QUEUING:
        raise _conflict(release_id, MailJobState(row.state), {MailJobState.QUEUING}, MailJobState.QUEUED)
    if row.assembled_at is None or row.kind is None:
        raise StateConflict(f"mail job {release_id} cannot be queued: its messages are not assembled")
    if row.is_dry_run:
        return transition(connection, release_id, MailJobState.QUEUING, MailJobState.STOPPED, DRY_RUN, now)
    if row.message_count == 0:
        return transition(
            connection, release_id, MailJobState.QUEUING, MailJobState.STOPPED, "no recipients", now
        )
    queued = connection.execute(
        STATEMENTS["queue_mail_job"],
        {"release_id": release_id, "message_count": row.message_count, "now": now},
    )
    return MailJobState(queued.scalar_one())


def transition(
    connection: Connection,
    mail_job_id: int,
    leaves: MailJobState | Collection[MailJobState],
    enters: MailJobState,
    reason: str,
    now: datetime,
) -> MailJobState:
    """Move a mail job from one of the states `leaves` to `enters` (spec 3.2) and return the state it is in.

    Raises StateConflict naming the state it was found in, NotFound when there is none of that number. A
    change that `TRANSITIONS` does not know is a mistake of the caller: ValueError. RUNNING is entered by
    claims alone.
    """
    named = {leaves} if isinstance(leaves, MailJobState) else set(leaves)
    if enters is MailJobState.RUNNING:
        raise ValueError("a mail job becomes RUNNING by a claim only")
    if unknown := sorted(state for state in named if enters not in TRANSITIONS[state]):
        raise ValueError(f"there is no way from {', '.join(unknown)} to {enters}")
    changed = connection.execute(
        STATEMENTS["change_state"],
        {
            "mail_job_id": mail_job_id,
            "leaves": sorted(named),
            "enters": enters.value,
            "is_ended": enters.is_ended,
            "reason": reason,
            "now": now,
        },
    )
    if changed.scalar_one_or_none() is not None:
        return enters
    found = connection.execute(STATEMENTS["read_state"], {"mail_job_id": mail_job_id}).scalar_one_or_none()
    if found is None:
        raise NotFound(f"there is no mail job {mail_job_id}")
    raise _conflict(mail_job_id, MailJobState(found), named, enters)


def mail_job(connection: Connection, mail_job_id: int) -> MailJob:
    """One mail job. Raises NotFound."""
    row = connection.execute(STATEMENTS["read_mail_job"], {"mail_job_id": mail_job_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no mail job {mail_job_id}")
    return _mail_job_of(row)


def mail_jobs(
    connection: Connection,
    installation_id: int,
    limit: int = 50,
    states: Collection[MailJobState] | None = None,
) -> list[MailJob]:
    """The newest mail jobs that are not children, at most `limit`, in any of `states` (None: in
    whichever).
    """
    rows = connection.execute(
        STATEMENTS["list_mail_jobs"],
        {
            "installation_id": installation_id,
            "most": limit,
            "states": None if states is None else sorted(states),
        },
    )
    return [_mail_job_of(row) for row in rows]


def children(connection: Connection, parent_id: int) -> list[MailJob]:
    """The children of a parent in the order in which they were made; RECOVERED ones too."""
    rows = connection.execute(STATEMENTS["list_children"], {"parent_id": parent_id})
    return [_mail_job_of(row) for row in rows]


def waiting_kinds(
    connection: Connection, now: datetime, hang_after_s: float, *, installation_id: int
) -> frozenset[WorkKind]:
    """The classes of work that wait: asked once for a whole fleet. None while sending is held. Locks nothing."""
    if is_held(connection, installation_id):
        return frozenset()
    row = connection.execute(
        STATEMENTS["find_waiting_work"],
        {
            "installation_id": installation_id,
            "now": now,
            "hung_before": now - timedelta(seconds=hang_after_s),
        },
    ).one()
    return frozenset(WorkKind(name) for name, is_waiting in row._mapping.items() if is_waiting)


def waiting_work(
    connection: Connection,
    parameters: MailcasterParameters,
    now: datetime,
    hang_after_s: float,
    *,
    installation_id: int,
) -> bool:
    """True when there is work that this mailcaster would take. Locks nothing."""
    waiting = waiting_kinds(connection, now, hang_after_s, installation_id=installation_id)
    return not waiting.isdisjoint(search_order(parameters))


def _mail_job_of(row: Row[Any]) -> MailJob:
    values = {name: row._mapping[name] for name in _FIELDS}
    values["state"] = MailJobState(row.state)
    values["asked_state"] = None if row.asked_state is None else MailJobState(row.asked_state)
    values["kind"] = None if row.kind is None else MailJobKind(row.kind)
    return MailJob(**values)


def _conflict(
    mail_job_id: int, found: MailJobState, leaves: Collection[MailJobState], enters: MailJobState
) -> StateConflict:
    expected = " or ".join(sorted(leaves))
    return StateConflict(f"mail job {mail_job_id} is {found}, not {expected}, and cannot become {enters}")


def releases_before(connection: Connection, release_id: int) -> list[int]:
    """The other releases whose messages are being sent or wait to be."""
    return list(connection.execute(STATEMENTS["find_releases_before"], {"release_id": release_id}).scalars())


def best_rates(connection: Connection, installation_id: int, since: datetime) -> dict[str, float]:
    """The most messages per second of each mailcaster in a mail job of LEAST_MEASURED messages or more."""
    binds = {"installation_id": installation_id, "since": since, "least": LEAST_MEASURED}
    rows = connection.execute(STATEMENTS["find_best_rates"], binds)
    return {row.mailcaster: float(row.per_second) for row in rows if row.per_second}

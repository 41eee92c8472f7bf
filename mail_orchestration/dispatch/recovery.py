"""What a dead mailcaster left behind, or an operator restarted, becomes a new mail job (spec 5.3, 5.4, 5.5).

What makes this safe is the row of the mail job, not the clock. Every write under a claim (a result, a
heartbeat, an end) is one statement that locks this row and finds state and fence as they were. So either it
committed before recovery locked the row, and the new holder sees it; or it comes later, finds another fence,
and writes nothing. While one is under way the row is locked and recovery passes over it.

The holder's session lock says one thing more: whether its session lives. A free lock means that it is gone,
and with it everything it had sent to the server. A lock that is not free belongs to one of two:
- a session that beat its heart within the hang time, such as one that is letting go of a restarted mail job
  in this very moment: it is passed over, and found at the next look;
- a session without a heartbeat for the whole hang time: a process that was suspended, or a host that was cut
  off and whose connection the server has not given up yet. It may live for ever, so it is not waited for but
  fenced out. When it wakes it repeats at most the message that each connection had in flight: the result of
  that one is refused, and with it the claim.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, assert_never

from sqlalchemy import Connection, Row

from mail_orchestration.dispatch.claim import Claim, claim_of
from mail_orchestration.dispatch.mail_jobs import HANDED_BACK_AT
from mail_orchestration.dispatch.search_order import WorkKind
from mail_orchestration.dispatch.settling import bring_figures_up_to_date, settle_parent
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.statements import STATEMENTS

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Who looks for work, among whose mail jobs, and when."""

    installation_id: int
    parameters: MailcasterParameters
    now: datetime
    hung_before: datetime
    """A RUNNING mail job whose last heartbeat is older than this hangs (spec 5.2)."""
    only: int | None = None
    """The one mail job that is looked for."""
    began: float = field(default_factory=steady_seconds)
    """This host's steady clock at `now`."""

    @property
    def binds(self) -> dict[str, Any]:
        """What every searching statement asks for."""
        return {"installation_id": self.installation_id, "only": self.only, "now": self.now}


def claim_recovered(
    connection: Connection, search: Search, work: WorkKind, passed_over: set[int]
) -> Claim | None:
    """Make a new mail job of the first one of this class that can be recovered, or return None.

    Those that cannot be recovered now are added to `passed_over`. Those that are too old to be recovered are
    FAILED.
    """
    while (candidate := _find(connection, search, work, passed_over)) is not None:
        passed_over.add(candidate.mail_job_id)
        if not _may_be_taken(connection, search, candidate):
            continue
        hours = search.parameters.job_recovery_expire_in_hours
        if (reason := too_old(candidate, search.now, hours)) is not None:
            _expire(connection, search, candidate, reason)
            continue
        how = _how(work, candidate)
        row = connection.execute(
            STATEMENTS["recover_mail_job"],
            {
                "mail_job_id": candidate.mail_job_id,
                "reason": f"{how}, recovered by {search.parameters.name}",
                "mailcaster": search.parameters.name,
                "now": search.now,
            },
        ).one()
        bring_figures_up_to_date(connection, candidate.mail_job_id)
        crash_point("recovery_made")
        _log.info("mail job %s %s and is recovered as %s", candidate.mail_job_id, how, row.mail_job_id)
        return claim_of(row, search.began)
    return None


def _find(connection: Connection, search: Search, work: WorkKind, passed_over: set[int]) -> Row[Any] | None:
    match work:
        case WorkKind.SMALL_RECOVERING | WorkKind.CHILD_RECOVERING:
            statement = STATEMENTS["find_restarted"]
        case WorkKind.SMALL_HANGING | WorkKind.CHILD_HANGING:
            statement = STATEMENTS["find_hanging"]
        case WorkKind.SMALL_QUEUED | WorkKind.P_ASSIGNING | WorkKind.P_QUEUED:
            raise ValueError(f"{work} is not recovered")
        case _:
            assert_never(work)
    binds = search.binds | {
        "kind": "small" if work in (WorkKind.SMALL_RECOVERING, WorkKind.SMALL_HANGING) else "child",
        "passed_over": sorted(passed_over),
    }
    if work.is_hanging:
        binds["hung_before"] = search.hung_before
    return connection.execute(statement, binds).one_or_none()


def _how(work: WorkKind, candidate: Row[Any]) -> str:
    """What befell it: the first words of its reason."""
    if not work.is_hanging:
        return "was restarted"
    return "was handed back" if candidate.heartbeat_at == HANDED_BACK_AT else "hung"


def _may_be_taken(connection: Connection, search: Search, candidate: Row[Any]) -> bool:
    """Its holder's session is gone, or gave no sign of life for the whole hang time."""
    if holder_is_gone(connection, candidate.mail_job_id):
        return True
    if candidate.heartbeat_at is not None and candidate.heartbeat_at >= search.hung_before:
        return False
    _log.warning("mail job %s is taken from a session that lives without a heartbeat", candidate.mail_job_id)
    return True


def holder_is_gone(connection: Connection, mail_job_id: int) -> bool:
    """No session holds it. It cannot be held again before this transaction ends."""
    return bool(connection.execute(STATEMENTS["try_holder_lock"], {"mail_job_id": mail_job_id}).scalar_one())


def too_old(mail_job: Row[Any], now: datetime, expire_in_hours: float) -> str | None:
    """Why it is not recovered any more (spec 5.4, 3.6). `queued_at` is that of the chain's first mail job."""
    if now - mail_job.queued_at > timedelta(hours=expire_in_hours):
        return f"not recovered: it was queued more than {expire_in_hours:g} hours before"
    if mail_job.release_expires_at is not None and mail_job.release_expires_at <= now:
        return "not recovered: the release has expired"
    return None


def _expire(connection: Connection, search: Search, candidate: Row[Any], reason: str) -> None:
    if candidate.parent_id is not None:
        # The child is locked already, so the parent may only be tried: the order of locks is parent, then
        # child.
        parent = connection.execute(STATEMENTS["try_lock_parent"], {"parent_id": candidate.parent_id})
        if parent.one_or_none() is None:
            return
    expire(connection, candidate.mail_job_id, reason, search.now)
    if candidate.parent_id is not None:
        settle_parent(connection, candidate.parent_id, search.now)
    crash_point("recovery_too_old")


def expire(connection: Connection, mail_job_id: int, reason: str, now: datetime) -> int:
    """RUNNING or RECOVERING → FAILED, and its unsent messages expire: how many. The caller has it locked, and
    settles its parent.
    """
    binds = {"mail_job_id": mail_job_id, "now": now}
    connection.execute(STATEMENTS["fail_expired"], binds | {"reason": reason}).one()
    bring_figures_up_to_date(connection, mail_job_id)
    expired: int = connection.execute(STATEMENTS["record_expired"], binds).rowcount
    _log.warning("mail job %s failed with %s messages expired: %s", mail_job_id, expired, reason)
    return expired

"""A mailcaster takes the next piece of work (spec 4.3, 4.6), holds it, reads what is unsent, and settles it.

`claim_next` → `HeldClaim` → `unsent_messages` … → `HeldClaim.finish`. Rows that another claim has in hand are
passed over (SKIP LOCKED), so nobody waits; what was passed over is looked at again some milliseconds later,
so that of mailcasters that wake together none goes back to sleep because the others were quicker.
"""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta
from typing import assert_never

from sqlalchemy import Connection

from mail_orchestration.dispatch.claim import Claim, claim_of
from mail_orchestration.dispatch.held_claim import HeldClaim
from mail_orchestration.dispatch.holds import is_held
from mail_orchestration.dispatch.mail_jobs import waiting_work
from mail_orchestration.dispatch.recovery import Search, claim_recovered
from mail_orchestration.dispatch.search_order import WorkKind, search_order
from mail_orchestration.dispatch.sizing import child_size
from mail_orchestration.dispatch.unsent import Unsent, UnsentMessage, unsent_messages
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.statements import STATEMENTS

__all__ = [
    "Claim",
    "HeldClaim",
    "Unsent",
    "UnsentMessage",
    "claim_chosen",
    "claim_next",
    "unsent_messages",
]

_LOOKS = 5
_PAUSE_S = (0.002, 0.02)


def claim_next(
    database: Database,
    installation_id: int,
    parameters: MailcasterParameters,
    *,
    now: datetime,
    hang_after_s: float,
) -> Claim | None:
    """Take the first work of an installation for this mailcaster, in one short transaction; None when there is none.

    While sending is held nothing is taken, also when the database was restored (spec 5.8). Mail jobs of a paused
    campaign are left alone, as are those that wait of a deleted one (spec 3.4); those of an expired release
    are taken, so that they end. A mail job whose heartbeat is older than `hang_after_s` seconds is recovered
    (spec 5.2, 5.3). Hold the claim with `HeldClaim` at once.
    """
    search = Search(
        installation_id=installation_id,
        parameters=parameters,
        now=now,
        hung_before=now - timedelta(seconds=hang_after_s),
    )
    for look in range(1, _LOOKS + 1):
        with database.begin() as connection:
            claim = _claim_first(connection, search)
            if claim is not None:
                crash_point("claim_made")
            elif look == _LOOKS or not _is_waiting(connection, search):
                return None
        if claim is not None:
            crash_point("claim_committed" if claim.recovers_id is None else "recovery_committed")
            return claim
        time.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - spreads mailcasters, guards nothing
    return None


def claim_chosen(
    database: Database,
    installation_id: int,
    mail_job_id: int,
    parameters: MailcasterParameters,
    *,
    now: datetime,
) -> Claim | None:
    """Take this very mail job, a small one that waits or one that was restarted, out of turn.

    None when sending is held, when it does not wait, or when somebody else is taking it. For an operator who
    chose it by hand.
    """
    search = Search(
        installation_id=installation_id,
        parameters=parameters,
        now=now,
        hung_before=now,
        only=mail_job_id,
    )
    with database.begin() as connection:
        if is_held(connection, installation_id):
            return None
        return (
            _claim_small(connection, search)
            or claim_recovered(connection, search, WorkKind.SMALL_RECOVERING, set())
            or claim_recovered(connection, search, WorkKind.CHILD_RECOVERING, set())
        )


def _is_waiting(connection: Connection, search: Search) -> bool:
    hang_after_s = (search.now - search.hung_before).total_seconds()
    return waiting_work(
        connection, search.parameters, search.now, hang_after_s, installation_id=search.installation_id
    )


def _claim_first(connection: Connection, search: Search) -> Claim | None:
    if is_held(connection, search.installation_id):
        return None
    passed_over: set[int] = set()
    for work in search_order(search.parameters):
        match work:
            case WorkKind.SMALL_QUEUED:
                claim = _claim_small(connection, search)
            case WorkKind.P_ASSIGNING | WorkKind.P_QUEUED:
                claim = _claim_child(connection, search, untouched=work is WorkKind.P_QUEUED)
            case (
                WorkKind.SMALL_RECOVERING
                | WorkKind.SMALL_HANGING
                | WorkKind.CHILD_RECOVERING
                | WorkKind.CHILD_HANGING
            ):
                claim = claim_recovered(connection, search, work, passed_over)
            case _:
                assert_never(work)
        if claim is not None:
            return claim
    return None


def _claim_small(connection: Connection, search: Search) -> Claim | None:
    row = connection.execute(
        STATEMENTS["claim_small"], search.binds | {"mailcaster": search.parameters.name}
    ).one_or_none()
    return None if row is None else claim_of(row, search.began)


def _claim_child(connection: Connection, search: Search, *, untouched: bool) -> Claim | None:
    statement = STATEMENTS["find_queued_parent"] if untouched else STATEMENTS["find_assigning_parent"]
    parent = connection.execute(statement, search.binds).one_or_none()
    if parent is None:
        return None
    # A canary is what the campaign says, however large or small this mailcaster likes its children.
    size = parent.canary_messages or child_size(
        remaining=parent.last_message - parent.next_message + 1,
        total=parent.last_message - parent.first_message + 1,
        untouched=untouched,
        parameters=search.parameters,
    )
    row = connection.execute(
        STATEMENTS["claim_child"],
        {
            "parent_id": parent.mail_job_id,
            "first_message": parent.next_message,
            "last_message": parent.next_message + size - 1,
            "mailcaster": search.parameters.name,
            "now": search.now,
        },
    ).one()
    crash_point("claim_child_made")
    return claim_of(row, search.began)

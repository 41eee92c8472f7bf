"""Holding all sending of an installation, and going on: the operator's switches, the fence after a restore (spec 5.8).

A hold stops what mailcasters have in hand within seconds: messages in flight are finished, and the rest is handed back.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from dataclasses import dataclass, field
from datetime import timedelta

from mail_orchestration.dispatch import restore_fence
from mail_orchestration.dispatch.holds import Hold, HoldCause, holds, in_hand, lift_hold, place_hold
from mail_orchestration.dispatch.restore_fence import Unfinished
from mail_orchestration.dispatch.send_window import send_window
from mail_orchestration.installation import Installation, look_at_database
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.errors import StateConflict

LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What became of the wish to hold."""

    holds: list[Hold]
    """All that are in force now."""
    in_hand: int
    """Mail jobs that mailcasters have not let go of yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What became of the wish to go on."""

    lifted: list[Hold]
    still_held: list[Hold]
    """Why nothing is sent all the same; empty when sending goes on."""
    confirmed: Unfinished | None = field(default=None)
    """After a restore: what goes on now, and of when it is."""


def why_held(inst: Installation) -> list[Hold]:
    """Why nothing is sent for this installation; empty when sending is not held.

    Looks whether the database is the one that was known as well, and holds sending if it is not.
    """
    with inst.database.begin() as connection:
        look_at_database(connection, inst.settings)
        return holds(connection, inst.installation_id)


def why_closed(inst: Installation) -> str:
    """That it is outside the send window, and when that opens, by the database's clock; "" when it is open."""
    with inst.database.begin() as connection:
        return send_window(inst.settings).why_closed(database_now(connection))


def hold(
    inst: Installation, reason: str, *, cause: HoldCause = HoldCause.OPERATOR, wait_s: float = 0
) -> Held:
    """Hold all sending of this installation, and wait until nothing is in hand, for at most `wait_s`.

    Until `resume`, or until `switch_notifications_on` where the cause is that they are off.
    """
    with inst.database.begin() as connection:
        place_hold(
            connection,
            inst.installation_id,
            cause,
            reason,
            by=operator(),
            now=database_now(connection),
        )
    until = time.monotonic() + wait_s
    while True:
        with inst.database.begin() as connection:
            alive_since = database_now(connection) - 3 * timedelta(
                seconds=inst.settings.dispatcher.heartbeat_seconds
            )
            left = in_hand(connection, inst.installation_id, alive_since=alive_since)
            if not left or time.monotonic() >= until:
                return Held(holds=holds(connection, inst.installation_id), in_hand=left)
        time.sleep(LOOK_EVERY_S)


def resume(inst: Installation, *, after_restore: bool = False) -> Resumed:
    """Go on sending. After a restore only with `after_restore`, by which the operator confirms what would be repeated.

    `after_restore` lifts that hold alone; one that the operator placed stays. Raises StateConflict, with the figures,
    when the database was restored and `after_restore` is not given.
    """
    with inst.database.begin() as connection:
        look_at_database(connection, inst.settings)
        is_restored = any(
            each.cause is HoldCause.RESTORED for each in holds(connection, inst.installation_id)
        )
        found = restore_fence.unfinished(connection) if is_restored else None
        if found is not None and not after_restore:
            raise StateConflict(_what_to_confirm(found))
        cause = HoldCause.RESTORED if after_restore else HoldCause.OPERATOR
        lifted = lift_hold(
            connection, inst.installation_id, cause, by=operator(), now=database_now(connection)
        )
        if found is not None:
            restore_fence.confirm(connection, inst.settings.data_dir, by=operator())
        return Resumed(lifted=lifted, still_held=holds(connection, inst.installation_id), confirmed=found)


def switch_notifications_on(inst: Installation) -> Resumed:
    """Go on sending after notifications were switched off; a hold of another cause stays."""
    with inst.database.begin() as connection:
        look_at_database(connection, inst.settings)
        lifted = lift_hold(
            connection,
            inst.installation_id,
            HoldCause.NOTIFICATIONS,
            by=operator(),
            now=database_now(connection),
        )
        return Resumed(lifted=lifted, still_held=holds(connection, inst.installation_id))


def operator() -> str:
    """Who does this: user and host, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"user {os.getuid()}"
    return f"{user} at {socket.gethostname()}"


def _what_to_confirm(found: Unfinished) -> str:
    def moment(value: object) -> str:
        return "never" if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"

    return (
        f"the database was restored or copied: {found.mail_jobs} mail jobs in it have not ended, its newest result "
        f"is of {moment(found.newest_result_at)}, its last sign of work of {moment(found.newest_sign_at)}. What was "
        "sent after that would be sent again. Stop what shall not go on (stop MAIL_JOB, stop --campaign NAME or "
        "stop --all), then confirm with resume --after-restore"
    )

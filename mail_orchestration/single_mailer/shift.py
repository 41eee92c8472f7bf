"""A shift of the single mailer: loose mails as they come due, and a while longer for what follows (spec 7.2)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from mail_orchestration.installation import Installation, look_at_database
from mail_orchestration.relays import relays_of
from mail_orchestration.sending.loose_tally import LooseTally
from mail_orchestration.sending.station import Station
from mail_orchestration.single_mailer.worker import loose_mailer

POLL_S = 1.0
"""How soon what is submitted while the shift lingers is found."""
CONNECTIONS = 20

EndedBecause = Literal["no mails", "stopped", "time budget", "held", "relay unreachable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LooseShiftSummary:
    """What a single mailer did in one shift."""

    tally: LooseTally
    seconds: float
    ended_because: EndedBecause


def run_loose_shift(
    inst: Installation,
    worker: str,
    *,
    stop: threading.Event,
    time_budget_s: float | None = None,
    linger_s: float = 0.0,
    connections: int = CONNECTIONS,
    on_turn: Callable[[LooseTally], None] | None = None,
) -> LooseShiftSummary:
    """Send loose mails, single ones first, until none has been due for `linger_s` seconds, or `stop` is set.

    While it lingers, what is submitted leaves within POLL_S. When `stop` is set the mails in flight are finished and
    recorded, and the rest is given back. Raises BadSettings, and DatabaseUnavailable when the database goes: what was
    in hand is taken up by others when its reservation has run out.
    """
    began = time.monotonic()
    until = None if time_budget_s is None else began + time_budget_s
    total = LooseTally()
    relays = relays_of(inst.settings)
    with inst.database.begin() as connection:
        look_at_database(connection, inst.settings)
    with (
        Station(inst) as station,
        closing(loose_mailer(inst, worker, relays, connections, station, stop)) as mailer,
    ):
        last_mail_at = began
        while True:
            left_s = None if until is None else until - time.monotonic()
            tally = mailer.send_due(for_s=left_s)
            total.add(tally)
            now = time.monotonic()
            if tally.mails:
                last_mail_at = now
                if on_turn is not None:
                    on_turn(tally)
            if ended := _why_over(tally, stop, until, now, last_mail_at + linger_s):
                return LooseShiftSummary(tally=total, seconds=now - began, ended_because=ended)
            stop.wait(POLL_S)


def _why_over(
    tally: LooseTally, stop: threading.Event, until: float | None, now: float, lingers_until: float
) -> EndedBecause | None:
    if stop.is_set():
        return "stopped"
    if tally.is_held:
        return "held"
    if tally.unreachable is not None:
        return "relay unreachable"
    if until is not None and now >= until:
        return "time budget"
    if now >= lingers_until:
        return "no mails"
    return None

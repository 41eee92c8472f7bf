"""A shift: at once after each mail job the next one, until there is no more work (spec 4.3)."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import claim_chosen
from mail_orchestration.dispatch.holds import holds, is_held
from mail_orchestration.dispatch.mail_jobs import mail_job
from mail_orchestration.dispatch.search_order import WorkKind, search_order
from mail_orchestration.dispatch.send_window import send_window
from mail_orchestration.dispatch.shifts import note_shift, start_shift
from mail_orchestration.dispatch.turns import Work
from mail_orchestration.frozen import FrozenRelease, read_frozen
from mail_orchestration.installation import Installation, look_at_database
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.errors import BadInput, ClaimLost, DatabaseUnavailable, StateConflict
from mail_orchestration.kernel.rare_collections import rare_collections
from mail_orchestration.kernel.states import MailJobKind
from mail_orchestration.mailcaster.claiming import claim_in_turn
from mail_orchestration.mailcaster.delivery import MailJobDelivery
from mail_orchestration.mailcaster.mail_job_done import MailJobDone
from mail_orchestration.relays import relays_of
from mail_orchestration.sending.loose_mailer import LooseMailer
from mail_orchestration.sending.station import Station
from mail_orchestration.serving import Served
from mail_orchestration.single_mailer.worker import KINDS, KINDS_FOR_OTHERS, loose_mailer

_log = logging.getLogger(__name__)

LOOSE_TURN_S = 30.0
"""How long at most loose mails go before the next mail job is looked for."""

EndedBecause = Literal["no work", "stopped", "time budget", "held", "send window"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftSummary:
    """What a mailcaster did in one shift."""

    mail_jobs: int
    messages: int
    """Messages of them that got a result."""
    loose_mails: int
    """Attempts at loose mails, and decisions not to make one."""
    seconds: float
    ended_because: EndedBecause


def run_shift(
    inst: Installation,
    mailcaster: str,
    *,
    stop: threading.Event,
    time_budget_s: float | None = None,
    on_mail_job_done: Callable[[MailJobDone], None] | None = None,
) -> ShiftSummary:
    """Take mail jobs and deliver them until there is no more work, `stop` is set, or the time budget is used up.

    Before each of them loose mails are sent that are due.

    It ends as well while sending is held, and with the send window: what is in hand is handed back then, and a hold is
    noticed within a second.
    When `stop` is set the messages in flight are finished and recorded, and the rest is left to the next shift. Raises
    BadSettings, and DatabaseUnavailable when the database goes. What was not sent then is handed back to the next shift
    if the database comes again within seconds; otherwise it hangs, and is recovered after the hang time.
    """
    return _Shift(inst, mailcaster, stop, time_budget_s, on_mail_job_done).run()


def work_on(
    inst: Installation, mailcaster: str, mail_job_id: int, stop: threading.Event
) -> MailJobDone | None:
    """Deliver one chosen mail job that waits (small and QUEUED, or restarted), out of turn; None when it does not wait.

    A restarted one is recovered: the result tells the number of the mail job that took its place. Raises ClaimLost,
    NotFound, StateConflict while sending is held or outside the send window, and BadInput for a child and a mailcaster
    of small mail jobs only, which never recovers one (spec 5.5).
    """
    parameters = inst.settings.mailcaster(mailcaster)
    relays = relays_of(inst.settings, parameters.relays)
    with inst.database.begin() as connection:
        kind = mail_job(connection, mail_job_id).kind
    if kind is MailJobKind.CHILD and WorkKind.CHILD_RECOVERING not in search_order(parameters):
        raise BadInput(
            f"mail job {mail_job_id} is a child, and mailcaster {mailcaster} takes small mail jobs only"
        )
    with Station(inst) as station:
        if closed := send_window(inst.settings).why_closed(station.clock.now()):
            raise StateConflict(closed)
        claim = claim_chosen(
            inst.database, inst.installation_id, mail_job_id, parameters, now=station.clock.now()
        )
        if claim is None:
            with inst.database.begin() as connection:
                if held := holds(connection, inst.installation_id):
                    raise StateConflict(f"sending is held: {held[0].reason}")
            return None

        def frozen() -> FrozenRelease:
            with inst.database.begin() as connection:
                return read_frozen(connection, inst, claim.release_id)

        return MailJobDelivery(inst, frozen, claim, parameters, relays, stop, station).run()


class _Shift:
    def __init__(
        self,
        inst: Installation,
        mailcaster: str,
        stop: threading.Event,
        time_budget_s: float | None,
        on_mail_job_done: Callable[[MailJobDone], None] | None,
    ) -> None:
        self._inst = inst
        self._parameters = inst.settings.mailcaster(mailcaster)
        self._served = Served(inst, self._parameters.installations, Work.MAIL_JOB)
        self._served_with_loose_mails = Served(inst, self._parameters.installations, Work.LOOSE_MAIL)
        self._loose_mailers: dict[int, LooseMailer] = {}
        self._relays = relays_of(inst.settings, self._parameters.relays)
        self._stop = stop
        self._budget_s = time_budget_s
        self._on_mail_job_done = on_mail_job_done
        self._frozen: FrozenRelease | None = None
        self._mail_jobs = self._messages = self._loose_mails = 0
        self._are_loose_mails_sent = True

    def run(self) -> ShiftSummary:
        with rare_collections(), Station(self._inst) as self._station:
            try:
                return self._run()
            finally:
                for each in self._loose_mailers.values():
                    each.close()

    def _run(self) -> ShiftSummary:
        began = time.monotonic()
        with self._inst.database.begin() as connection:
            # Between two shifts of one process the database may have been exchanged.
            look_at_database(connection, self._inst.settings)
            self._shift = start_shift(
                connection,
                self._inst.installation_id,
                self._parameters.name,
                host=socket.gethostname(),
                process_id=os.getpid(),
                now=self._station.clock.now(),
            )
        crash_point("shift_begun")
        try:
            ended_because = self._work(began)
        except Exception:
            with contextlib.suppress(DatabaseUnavailable):
                self._note(None, is_over=True)
            raise
        self._note(None, is_over=True)
        crash_point("shift_over")
        return ShiftSummary(
            mail_jobs=self._mail_jobs,
            messages=self._messages,
            loose_mails=self._loose_mails,
            seconds=time.monotonic() - began,
            ended_because=ended_because,
        )

    def _work(self, began: float) -> EndedBecause:
        while True:
            if self._stop.is_set():
                return "stopped"
            if self._budget_s is not None and time.monotonic() - began > self._budget_s:
                return "time budget"
            loose_mails = self._send_loose_mails()
            taken = claim_in_turn(self._served, self._parameters, self._station.clock.now)
            if taken is None and loose_mails:
                # Another installation's may be due, or more of the same.
                continue
            if taken is None:
                return self._why_nothing()
            inst, claim = taken
            self._note(claim.mail_job_id)
            self._work_on(inst, claim)

    def _send_loose_mails(self) -> int:
        """Loose mails of the installation whose turn it is go before bulk mail; but for a while, so that it goes too.

        Returns how many there were.
        """
        for inst in self._served_with_loose_mails.in_turn(self._station.clock.now()):
            if self._stop.is_set() or not self._are_loose_mails_sent:
                break
            tally = self._loose_mailer_of(inst).send_due(for_s=LOOSE_TURN_S)
            self._loose_mails += tally.mails
            if tally.unreachable is not None:
                # A mail job's own attempts tell the same; what is loose waits for another shift.
                _log.warning("loose mails: %s", tally.unreachable)
                self._are_loose_mails_sent = False
            if tally.mails:
                self._served_with_loose_mails.note_turn(inst.installation_id)
                return tally.mails
        return 0

    def _loose_mailer_of(self, inst: Installation) -> LooseMailer:
        known = self._loose_mailers.get(inst.installation_id)
        if known is None or known.inst != inst:
            if known is not None:
                known.close()
            known = self._loose_mailers[inst.installation_id] = loose_mailer(
                inst,
                self._parameters.name,
                self._relays,
                self._parameters.connections,
                self._station,
                self._stop,
                kinds=KINDS if inst is self._inst else KINDS_FOR_OTHERS,
            )
        return known

    def _why_nothing(self) -> EndedBecause:
        """Nothing was found: for whom it serves there is none, or it may not be sent now."""
        now = self._station.clock.now()
        in_window = [each for each in self._served.all() if send_window(each.settings).is_open_at(now)]
        if not in_window:
            return "send window"
        with self._inst.database.begin() as connection:
            is_all_held = all(is_held(connection, each.installation_id) for each in in_window)
        return "held" if is_all_held else "no work"

    def _work_on(self, inst: Installation, claim: Claim) -> None:
        delivery = MailJobDelivery(
            inst,
            lambda: self._frozen_release(inst, claim),
            claim,
            self._parameters,
            self._relays,
            self._stop,
            self._station,
        )
        try:
            done = delivery.run()
        except ClaimLost as lost:
            # Somebody else has it and will send what is left: nothing is lost, and nothing more is ours to do.
            _log.warning("%s", lost)
            return
        crash_point("finish_committed")
        self._mail_jobs += 1
        self._messages += done.results
        _log.info(
            "mail job %d is %s: %d results in %.1f s",
            done.mail_job_id,
            done.state,
            done.results,
            done.seconds,
        )
        if self._on_mail_job_done is not None:
            self._on_mail_job_done(done)

    def _frozen_release(self, inst: Installation, claim: Claim) -> FrozenRelease:
        """The release of the claim; children of one parent follow each other, so the last one is kept."""
        if self._frozen is None or self._frozen.release.release_id != claim.release_id:
            with self._inst.database.begin() as connection:
                self._frozen = read_frozen(connection, inst, claim.release_id)
        return self._frozen

    def _note(self, mail_job_id: int | None, *, is_over: bool = False) -> None:
        with self._inst.database.begin() as connection:
            self._shift = note_shift(
                connection,
                self._inst.installation_id,
                self._shift,
                mail_job_id=mail_job_id,
                mail_jobs_done=self._mail_jobs,
                messages_done=self._messages,
                now=self._station.clock.now(),
                is_over=is_over,
            )
            self._station.clock.set_by(connection)

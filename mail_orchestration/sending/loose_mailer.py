"""Loose mails are sent for as long as any is due: reserved in order, prepared, attempted, settled (spec 6.2, 6.3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from mail_orchestration.composition.errors import BadStoredMessage
from mail_orchestration.dispatch.holds import is_held
from mail_orchestration.dispatch.loose_mails import has_due_loose_mails
from mail_orchestration.dispatch.retry_policy import NextStep, RetryPolicy, next_step
from mail_orchestration.dispatch.send_window import send_window
from mail_orchestration.egress.delivery import deliver
from mail_orchestration.egress.relay import Relay
from mail_orchestration.feedback.loose_results import LooseResult
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome, OutgoingMessage
from mail_orchestration.kernel.errors import DatabaseUnavailable, RelayUnreachable
from mail_orchestration.kernel.failure_codes import FailureCode, code_of
from mail_orchestration.kernel.loose_mail_states import LooseMailKind, LooseMailState
from mail_orchestration.sending.loose_log import LooseLog
from mail_orchestration.sending.loose_tally import LooseTally
from mail_orchestration.sending.preparing import (
    NotSent,
    Preparer,
    Ready,
    Unsendable,
    reason_against,
)
from mail_orchestration.sending.reservations import Reservations
from mail_orchestration.sending.station import Station

_log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How soon what comes while others are being sent is found, and a hold is noticed."""
STOP_POLL_S = 0.2
"""How soon a stop by a signal is noticed."""


class LooseMailer:
    """Sends loose mails for one worker, turn by turn."""

    def __init__(
        self,
        inst: Installation,
        worker: str,
        relays: Sequence[Relay],
        connections: int,
        station: Station,
        stop: threading.Event,
        preparers: Mapping[LooseMailKind, Preparer],
    ) -> None:
        """`preparers` says how mails of each kind are prepared; of a kind that is not there none is sent."""
        self.inst = inst
        self.worker = worker
        self.relays = relays
        self.connections = connections
        self.station = station
        self.stop = stop
        self.preparers = preparers
        self._window = send_window(inst.settings)
        self.reservations = Reservations(
            inst,
            worker,
            kinds_at=self.kinds_at,
            # As many as are sent at once, and as many again: the rest is for others.
            most=2 * connections,
            clock=station.clock.now,
        )

    def kinds_at(self, now: datetime) -> list[LooseMailKind]:
        """What of that which it can prepare may be sent at a moment."""
        return self._window.kinds_at(self.preparers, now)

    def close(self) -> None:
        """The shift is over: end the processes that compose."""
        for preparer in self.preparers.values():
            preparer.close()

    def send_due(self, *, for_s: float | None = None) -> LooseTally:
        """Send until nothing is due, all that was sent has its result, or `stop` is set.

        After `for_s` seconds nothing more is reserved. Raises DatabaseUnavailable; what is in hand is then taken up by
        others when the reservation has run out.
        """
        with self.inst.database.begin() as connection:
            self.station.clock.set_by(connection)
            now = self.station.clock.now()
            held = is_held(connection, self.inst.installation_id)
            if held or not has_due_loose_mails(
                connection, self.inst.installation_id, self.kinds_at(now), now
            ):
                return LooseTally(is_held=held)
        return self.station.run(_Turn(self, for_s).run())


class _Turn:
    """One turn: egress' source and sink."""

    def __init__(self, mailer: LooseMailer, for_s: float | None) -> None:
        self._mailer = mailer
        self._inst = mailer.inst
        self._now = mailer.station.clock.now
        self._reservations = mailer.reservations
        self._until = None if for_s is None else time.monotonic() + for_s
        dispatcher = mailer.inst.settings.dispatcher
        self._retry_after = timedelta(minutes=dispatcher.retry_after_minutes)
        self._most_attempts = dispatcher.max_attempts
        self._unreachable_after_s = dispatcher.relay_unreachable_after_seconds
        self._tally = LooseTally()
        self._taken: dict[int, Ready] = {}
        """What egress has."""
        self._ready: deque[Ready] = deque()

    async def run(self) -> LooseTally:
        self._end, self._all_settled = asyncio.Event(), asyncio.Event()
        self._log = LooseLog(self._inst.database, self._settled)
        keeping = asyncio.create_task(self._keep())
        try:
            await deliver(
                self,
                self,
                self._mailer.relays,
                connections=self._mailer.connections,
                stop=self._end,
                unreachable_after_s=self._unreachable_after_s,
                clock=self._now,
                idle=self._mailer.station.idle,
                may_send=self._may_send,
                throttle=self._mailer.station.throttle,
            )
        except RelayUnreachable as error:
            self._tally.unreachable = str(error)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await self._log.close()
            await self._reservations.give_back()
        for preparer in self._mailer.preparers.values():
            await preparer.finish()
        return self._tally

    # What egress takes --------------------------------------------------------------------------------------------

    async def take(self) -> OutgoingMessage | None:
        """The next message. Waits while others are under way: what is submitted meanwhile need not wait for them."""
        while not self._end.is_set():
            while self._ready:
                ready = self._ready.popleft()
                try:
                    message = ready.compose()
                except BadStoredMessage as error:
                    why = Unsendable(mail=ready.mail, code=FailureCode.PERSISTENCE_EXCEPTION, why=str(error))
                    await self._set_aside([why])
                    continue
                self._taken[ready.mail.loose_mail_id] = ready
                return message
            if self._until is not None and time.monotonic() > self._until:
                return None
            if await self._prepare():
                continue
            if not self._reservations:
                return None
            self._all_settled.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_settled.wait(), LOOK_S)
        return None

    async def _prepare(self) -> bool:
        """Take the next ones in hand, and make them ready. Returns whether there were any."""
        mails = await self._reservations.reserve()
        if not mails:
            return False
        now = self._now()
        against = {mail.loose_mail_id: reason_against(mail, now) for mail in mails}
        aside: list[NotSent | Unsendable] = [reason for reason in against.values() if reason is not None]
        ready: dict[int, Ready] = {}
        for kind, preparer in self._mailer.preparers.items():
            wanted = [mail for mail in mails if mail.kind is kind and against[mail.loose_mail_id] is None]
            for prepared in await preparer.prepare(wanted) if wanted else ():
                if isinstance(prepared, Ready):
                    ready[prepared.mail.loose_mail_id] = prepared
                else:
                    aside.append(prepared)
        self._ready.extend(ready[mail.loose_mail_id] for mail in mails if mail.loose_mail_id in ready)
        await self._set_aside(aside)
        return True

    async def _set_aside(self, those: Iterable[NotSent | Unsendable]) -> None:
        """What is not sent has its end, durably, before more is reserved."""
        now = self._now()
        waiting = []
        for each in those:
            mail = each.mail
            if isinstance(each, NotSent):
                result = DeliveryResult(
                    mail.loose_mail_id, mail.contact_id, each.outcome, None, None, each.why, "", now
                )
                waiting.append(self._log.record(mail, result, NextStep(enters=None)))
            else:
                self._tally.failed += 1
                result = DeliveryResult(
                    mail.loose_mail_id, mail.contact_id, Outcome.DEFERRED, None, None, None, "", now
                )
                step = NextStep(enters=LooseMailState.FAILED, is_counted=False, description=each.why)
                waiting.append(self._log.record(mail, result, step, each.code))
        if waiting:
            await asyncio.gather(*waiting)

    # What egress tells --------------------------------------------------------------------------------------------

    def record(self, result: DeliveryResult) -> asyncio.Future[None]:
        """Egress' `ResultSink`: what follows from an attempt is written with it."""
        ready = self._taken.pop(result.message_no)
        mail = ready.mail
        policy = RetryPolicy(
            most_attempts=self._most_attempts,
            retry_after=self._retry_after,
            resends_uncertain=ready.resends_uncertain,
        )
        step = next_step(mail.kind, result, mail.attempts, policy)
        code = None
        if step.enters is LooseMailState.FAILED:
            self._tally.failed += 1
            code = code_of(result)
        durable = self._log.record(mail, result, step, code)
        ready.watch(result, durable)
        return durable

    def _settled(self, written: LooseResult, is_written: bool) -> None:
        self._reservations.settled(written.loose_mail_id)
        if not self._reservations:
            self._all_settled.set()
        if not is_written:
            self._tally.lost += 1
            _log.warning(
                "loose mail %d is in other hands by now, or its result was there", written.loose_mail_id
            )
        elif written.is_counted:
            self._tally.outcomes[written.result.outcome] += 1

    # What is watched beside ---------------------------------------------------------------------------------------

    def _may_send(self) -> bool:
        """The last word before a message leaves: false when somebody else may have reserved it by now."""
        if self._reservations.has_run_out():
            self._end.set()
            return False
        return True

    async def _keep(self) -> None:
        """Notice a stop and a hold, and keep what is in hand reserved, until cancelled."""
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(STOP_POLL_S)
            if self._mailer.stop.is_set():
                self._end.set()
            if time.monotonic() - looked_at < LOOK_S:
                continue
            looked_at = time.monotonic()
            if not self._reservations.kinds() <= set(self._mailer.kinds_at(self._now())):
                self._end.set()  # The send window is over: what waits is given back.
            try:
                if await asyncio.to_thread(self._is_held):
                    self._tally.is_held = True
                    self._end.set()
                if not await self._reservations.renew():
                    self._end.set()
            except DatabaseUnavailable as error:
                # The next write meets the same and ends the delivery; until then the reservations hold.
                _log.warning("%s: %s", self._mailer.worker, error)

    def _is_held(self) -> bool:
        with self._inst.database.begin() as connection:
            return is_held(connection, self._inst.installation_id)

"""Loose mails are sent for as long as any is due: reserved in order, prepared, attempted, settled (spec 6.2, 6.3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from mail_orchestration.composition.compression import BadStoredMessage
from mail_orchestration.dispatch.holds import is_held
from mail_orchestration.dispatch.loose_mails import (
    ReservedMail,
    ensure_delivery_log,
    give_back,
    has_due_loose_mails,
    renew_reservations,
    reserve_loose_mails,
)
from mail_orchestration.dispatch.retry_policy import NextStep, RetryPolicy, next_step
from mail_orchestration.dispatch.send_window import SendWindow, send_window
from mail_orchestration.egress.delivery import deliver
from mail_orchestration.egress.relay import Relay
from mail_orchestration.feedback.loose_results import LooseResult
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.errors import DatabaseUnavailable, RelayUnreachable
from mail_orchestration.kernel.failure_codes import FailureCode, code_of
from mail_orchestration.kernel.loose_mail_states import LooseMailKind, LooseMailState
from mail_orchestration.kernel.model import DeliveryResult, Outcome, OutgoingMessage
from mail_orchestration.sending.loose_log import LooseLog
from mail_orchestration.sending.preparing import (
    NotSent,
    Preparer,
    Ready,
    Unsendable,
    reason_against,
)
from mail_orchestration.sending.station import Station

_log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How soon what comes while others are being sent is found, and a hold is noticed."""
STOP_POLL_S = 0.2
"""How soon a stop by a signal is noticed."""


def kinds_at(window: SendWindow, kinds: Iterable[LooseMailKind], now: datetime) -> list[LooseMailKind]:
    """Those that may be sent at a moment: single mails do not wait for the send window, unless they must (spec 6.7)."""
    is_open, is_open_for_singles = window.is_open_at(now), window.is_open_for_single_mails_at(now)
    return [kind for kind in kinds if (is_open_for_singles if kind is LooseMailKind.SINGLE else is_open)]


@dataclass(kw_only=True)
class LooseTally:
    """What came of a worker's turn at loose mails."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    """Durable results of attempts, and of decisions not to make one."""
    failed: int = 0
    """Those that are dead letters now; the attempt that was the last is among the outcomes."""
    lost: int = 0
    """Results that were refused: the reservation had run out, and somebody else has the mail."""
    is_held: bool = False
    unreachable: str | None = None
    """Why no relay could be reached, if that ended it."""

    @property
    def mails(self) -> int:
        """How many results there were."""
        return self.outcomes.total()

    def add(self, other: LooseTally) -> None:
        """Count `other` in."""
        self.outcomes.update(other.outcomes)
        self.failed += other.failed
        self.lost += other.lost
        self.is_held, self.unreachable = other.is_held, other.unreachable


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
        self.log_until: date | None = None
        """The day from which on there may be no partition of the delivery log."""

    def kinds_at(self, now: datetime) -> list[LooseMailKind]:
        """What of that which it can prepare may be sent at a moment."""
        return kinds_at(self._window, self.preparers, now)

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
            if not has_due_loose_mails(connection, self.inst.installation_id, self.kinds_at(now), now):
                return LooseTally(is_held=is_held(connection, self.inst.installation_id))
        return self.station.run(_Turn(self, for_s).run())


class _Turn:
    """One turn: egress' source and sink, with what is in the worker's hands between the two."""

    def __init__(self, mailer: LooseMailer, for_s: float | None) -> None:
        self._mailer = mailer
        self._inst = mailer.inst
        self._now = mailer.station.clock.now
        self._until = None if for_s is None else time.monotonic() + for_s
        dispatcher = mailer.inst.settings.dispatcher
        self._lease_s = 60 * dispatcher.reservation_minutes
        self._retry_after = timedelta(minutes=dispatcher.retry_after_minutes)
        self._most_attempts = dispatcher.max_attempts
        self._unreachable_after_s = dispatcher.relay_unreachable_after_seconds
        self._tally = LooseTally()
        self._in_hand: dict[int, ReservedMail] = {}
        """Reserved and without a durable result, the longest reserved first."""
        self._taken: dict[int, Ready] = {}
        """Those of them that egress has."""
        self._ready: deque[Ready] = deque()
        self._reading: asyncio.Future[list[ReservedMail]] | None = None
        self._is_lease_over = False

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
            await self._give_back()
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
            is_over = self._until is not None and time.monotonic() > self._until
            if is_over or await self._reserve():
                if is_over:
                    return None
                continue
            if not self._in_hand:
                return None
            self._all_settled.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_settled.wait(), LOOK_S)
        return None

    async def _reserve(self) -> bool:
        """Take the next ones in hand. Returns whether there were any."""
        self._reading = asyncio.ensure_future(asyncio.to_thread(self._read))
        # Whoever is cancelled here leaves it to `run` to give back what was reserved nevertheless.
        mails = await asyncio.shield(self._reading)
        self._reading = None
        if not mails:
            return False
        self._in_hand |= {mail.loose_mail_id: mail for mail in mails}
        crash_point("loose_mails_reserved")
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

    def _read(self) -> list[ReservedMail]:
        began, now = steady_seconds(), self._now()
        with self._inst.database.begin() as connection:
            if self._mailer.log_until is None or now.date() >= self._mailer.log_until:
                self._mailer.log_until = ensure_delivery_log(connection, now)
        with self._inst.database.begin() as connection:
            # As many as are sent at once, and as many again: the rest is for others.
            return reserve_loose_mails(
                connection,
                self._inst.installation_id,
                self._mailer.worker,
                kinds=self._mailer.kinds_at(now),
                most=2 * self._mailer.connections,
                for_s=self._lease_s,
                now=now,
                began=began,
            )

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
                waiting.append(self._log.record(_written(mail, result, NextStep(enters=None))))
            else:
                self._tally.failed += 1
                result = DeliveryResult(
                    mail.loose_mail_id, mail.contact_id, Outcome.DEFERRED, None, None, None, "", now
                )
                step = NextStep(enters=LooseMailState.FAILED, is_counted=False, description=each.why)
                waiting.append(self._log.record(_written(mail, result, step, each.code)))
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
        durable = self._log.record(_written(mail, result, step, code))
        ready.watch(result, durable)
        return durable

    def _settled(self, written: LooseResult, is_written: bool) -> None:
        self._in_hand.pop(written.loose_mail_id, None)
        if not self._in_hand:
            self._all_settled.set()
        if not is_written:
            self._tally.lost += 1
            _log.warning("loose mail %d is in other hands by now", written.loose_mail_id)
        elif written.is_counted:
            self._tally.outcomes[written.result.outcome] += 1

    # What is watched beside ---------------------------------------------------------------------------------------

    def _may_send(self) -> bool:
        """The last word before a message leaves: false when somebody else may have reserved it by now."""
        oldest = next(iter(self._in_hand.values()), None)
        if oldest is not None and steady_seconds() - oldest.reserved_at >= self._lease_s:
            self._lease_is_over()
        return not self._is_lease_over

    def _lease_is_over(self) -> None:
        if not self._is_lease_over:
            _log.warning("%s: a reservation has run out", self._mailer.worker)
        self._is_lease_over = True
        self._end.set()

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
            kinds = self._mailer.kinds_at(self._now())
            if any(mail.kind not in kinds for mail in self._in_hand.values()):
                self._end.set()  # The send window is over: what waits is given back.
            try:
                if await asyncio.to_thread(self._is_held):
                    self._tally.is_held = True
                    self._end.set()
                await self._renew()
            except DatabaseUnavailable as error:
                # The next write meets the same and ends the delivery; until then the reservations hold.
                _log.warning("%s: %s", self._mailer.worker, error)

    async def _renew(self) -> None:
        mails = list(self._in_hand.values())
        if not mails or steady_seconds() - mails[0].reserved_at < self._lease_s / 3:
            return
        began = steady_seconds()
        kept = await asyncio.to_thread(self._renewed, mails)
        for mail in mails:
            if mail.loose_mail_id not in self._in_hand:
                continue  # It has its result meanwhile.
            if mail.loose_mail_id not in kept:
                # It may be on a connection at this moment: nothing more leaves.
                self._lease_is_over()
                return
            del self._in_hand[mail.loose_mail_id]
            self._in_hand[mail.loose_mail_id] = mail.reserved_again(began)

    def _renewed(self, mails: Sequence[ReservedMail]) -> set[int]:
        with self._inst.database.begin() as connection:
            return renew_reservations(connection, mails, for_s=self._lease_s, now=self._now())

    def _is_held(self) -> bool:
        with self._inst.database.begin() as connection:
            return is_held(connection, self._inst.installation_id)

    async def _give_back(self) -> None:
        """What has no result is free for others: at once, or when the reservation has run out."""
        mails = list(self._in_hand.values())
        if self._reading is not None:
            (found,) = await asyncio.gather(self._reading, return_exceptions=True)
            mails += found if isinstance(found, list) else []
        if not mails:
            return
        crash_point("loose_mails_unsent")

        def give() -> None:
            with self._inst.database.begin() as connection:
                give_back(connection, mails)

        try:
            await asyncio.to_thread(give)
        except DatabaseUnavailable as error:
            _log.warning("%d loose mails wait until their reservation runs out: %s", len(mails), error)


def _written(
    mail: ReservedMail, result: DeliveryResult, step: NextStep, code: FailureCode | None = None
) -> LooseResult:
    return LooseResult(
        loose_mail_id=mail.loose_mail_id,
        fence=mail.fence,
        release_id=None if mail.of_release is None else mail.of_release.release_id,
        mail_job_id=None if mail.of_release is None else mail.of_release.mail_job_id,
        result=result,
        enters=step.enters,
        due_at=step.due_at,
        is_counted=step.is_counted,
        code=code,
        description=step.description,
    )

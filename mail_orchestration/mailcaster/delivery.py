"""One mail job in a mailcaster's hands: deliver its messages, keep its heart beating, and settle how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mail_orchestration.composition.context import envelope_sender
from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import HeldClaim
from mail_orchestration.dispatch.failure_policy import gives_up
from mail_orchestration.egress.delivery import MessageSource, deliver
from mail_orchestration.egress.relay import Relay
from mail_orchestration.feedback.results_log import ResultsLog
from mail_orchestration.frozen import FrozenRelease
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.errors import (
    BadInput,
    BadSettings,
    ClaimLost,
    ComponentFailed,
    DatabaseUnavailable,
    RelayUnreachable,
    StateConflict,
)
from mail_orchestration.kernel.model import DeliveryResult, Outcome
from mail_orchestration.kernel.settings import MailcasterParameters
from mail_orchestration.kernel.states import MailJobKind, MailJobState
from mail_orchestration.mailcaster.components import SendComponents
from mail_orchestration.mailcaster.message_feed import MessageFeed
from mail_orchestration.mailcaster.repeats import RepeatFeed, Repeats
from mail_orchestration.mailcaster.station import Station

_log = logging.getLogger(__name__)

STOP_POLL_S = 0.2
"""How often a stop that came from a signal or from another thread is looked for, and the campaign's expiry."""
STOP_LOOK_S = 1.0
"""How often a stop that the operator asked for in the database is looked for, if no other write has told."""
HAND_BACK_S, HAND_BACK_PAUSE_S = 20.0, 0.5
"""A database that restarts is back within seconds: for so long a mail job that cannot go on is handed back rather
than left to hang for hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailJobDone:
    """How one mail job's turn with a mailcaster ended. The counts are of this turn."""

    mail_job_id: int
    parent_id: int | None
    release_id: int
    kind: MailJobKind
    state: MailJobState
    reason: str = ""
    first_message: int
    last_message: int
    accepted: int = 0
    deferred: int = 0
    rejected: int = 0
    uncertain: int = 0
    stopped: int = 0
    expired: int = 0
    seconds: float = 0.0
    relay_errors: dict[str, str] = field(default_factory=dict)
    """Per relay that failed at any time, why it did last."""

    @property
    def results(self) -> int:
        """How many messages got a result."""
        return self.accepted + self.deferred + self.rejected + self.uncertain + self.stopped + self.expired


class MailJobDelivery:
    """Works on one claim until every message has a result, or it gives up, or is told to stop."""

    def __init__(
        self,
        inst: Installation,
        frozen: Callable[[], FrozenRelease],
        claim: Claim,
        parameters: MailcasterParameters,
        relays: Sequence[Relay],
        stop: threading.Event,
        station: Station,
    ) -> None:
        self._inst = inst
        self._read_frozen = frozen
        self._claim = claim
        self._parameters = parameters
        self._relays = relays
        self._stop = stop
        self._station = station
        self._now = station.clock.now
        self._hang_after_s = inst.settings.dispatcher.hang_after_seconds
        self._gave_up = ""
        self._is_stopping = self._has_expired = self._is_lease_over = self._is_held = False
        self._relay_errors: dict[str, str] = {}
        self._trouble: Exception | None = None
        self._counts: dict[Outcome, int] = {}
        self._most_attempts = 1

    def run(self) -> MailJobDone:
        """Deliver and settle. Raises ClaimLost when somebody else has the mail job.

        Raises DatabaseUnavailable and BadSettings too: the mail job is handed back then, if that is possible
        within HAND_BACK_S, and what has no result is for the next shift.
        """
        began = time.monotonic()
        held = HeldClaim(self._inst.database, self._claim)
        try:
            with held:
                state = self._deliver_and_settle(held)
        except (DatabaseUnavailable, BadSettings):
            self._hand_back(held)
            raise
        return MailJobDone(
            mail_job_id=self._claim.mail_job_id,
            parent_id=self._claim.parent_id,
            release_id=self._claim.release_id,
            kind=self._claim.kind,
            state=state,
            reason=self._gave_up,
            first_message=self._claim.first_message,
            last_message=self._claim.last_message,
            seconds=time.monotonic() - began,
            relay_errors=self._relay_errors,
            # What the last holder left uncertain and this one settled is less than nothing of its own.
            **{str(outcome): max(0, count) for outcome, count in self._counts.items()},
        )

    def _deliver_and_settle(self, held: HeldClaim) -> MailJobState:
        try:
            self._frozen = self._read_frozen()
            self._components = SendComponents(self._frozen.campaign.definition.components)
            # A stop or a hold that was asked for while the claim was being made saw nobody to wait for.
            self._is_stopping, self._is_held = held.is_asked_to_stop(), held.is_sending_held()
            self._relay_errors = self._station.run(self._deliver(held))
        except BadSettings:
            raise
        except (RelayUnreachable, ComponentFailed, BadInput) as error:
            self._gave_up = str(error)
        crash_point("delivery_ended")
        held.progress(self._counts)
        return self._settle(held)

    def _settle(self, held: HeldClaim) -> MailJobState:
        """Every message has a result: finished. Else it was given up, asked to stop, or the shift ends."""
        now = self._now()
        if self._gave_up:
            crash_point("before_giving_up")
            return held.fail(self._gave_up, now)
        try:
            return held.finish(now, most_attempts=self._most_attempts)
        except StateConflict:
            if self._is_stopping:
                crash_point("stop_noticed")
                state = held.let_go_stopped(now)
                crash_point("stop_committed")
                return state
            if not (self._stop.is_set() or self._is_lease_over or self._is_held):
                raise
            crash_point("before_hand_back")
            held.hand_back()
            crash_point("after_hand_back")
            return MailJobState.RUNNING

    def _hand_back(self, held: HeldClaim) -> None:
        until = time.monotonic() + HAND_BACK_S
        while True:
            try:
                held.hand_back()
                return
            except ClaimLost:
                return
            except DatabaseUnavailable as error:
                if time.monotonic() >= until or self._stop.wait(HAND_BACK_PAUSE_S):
                    _log.warning(
                        "mail job %d hangs until it is recovered: %s", self._claim.mail_job_id, error
                    )
                    return

    def _look_for_an_end(self) -> None:
        expires_at = self._frozen.release.expires_at
        self._has_expired |= expires_at is not None and self._now() >= expires_at
        if (
            self._stop.is_set()
            or self._has_expired
            or self._is_stopping
            or self._is_held
            or self._components.failure is not None
        ):
            self._end.set()

    async def _deliver(self, held: HeldClaim) -> dict[str, str]:
        definition = self._frozen.campaign.definition
        if definition.on_uncertain == "resend":
            self._most_attempts = self._inst.settings.dispatcher.max_attempts
        self._repeats = Repeats(self._inst.database, self._claim, self._most_attempts)
        self._end = asyncio.Event()
        async with ResultsLog(
            self._inst.database,
            release_id=self._claim.release_id,
            released_on=self._claim.released_on,
            mail_job_id=self._claim.mail_job_id,
            fence=self._claim.fence,
        ) as log:
            self._results, self._rejected, self._ended = log, 0, 0
            self._most_errors = definition.maximum_error_percentage
            feed = MessageFeed(
                self._inst.database,
                self._claim,
                self._frozen.compressor(),
                reverse_path=envelope_sender(self._frozen.facts, definition),
                clock=self._now,
                record=log.record,
                components=self._components,
                pace=self._station.pace,
            )
            self._look_for_an_end()
            keeper = asyncio.create_task(self._keep(held))
            try:
                relay_errors = await self._send(feed, held)
                relay_errors |= await self._send_again(feed, held)
                if self._trouble is not None:
                    raise self._trouble
                if self._has_expired:
                    await feed.expire()
                    await self._repeat_feed(feed).give_up("the campaign has expired")
                await self._components.finish()
                return relay_errors
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, feed.close(), return_exceptions=True)
                self._counts = dict(log.counts)

    async def _send(self, source: MessageSource, held: HeldClaim) -> dict[str, str]:
        report = await deliver(
            source,
            self,
            self._relays,
            connections=self._parameters.connections,
            stop=self._end,
            unreachable_after_s=self._inst.settings.dispatcher.relay_unreachable_after_seconds,
            clock=self._now,
            idle=self._station.idle,
            may_send=lambda: self._may_send(held),
        )
        return report.last_relay_errors

    async def _send_again(self, feed: MessageFeed, held: HeldClaim) -> dict[str, str]:
        """Uncertain messages once more, pass after pass, each after the pause that a relay gets which failed."""
        relay_errors: dict[str, str] = {}
        for number in itertools.count(1):
            if self._end.is_set() or not await self._repeats.are_left():
                break
            pause_s = max(relay.backoff.seconds(number, random.random()) for relay in self._relays)  # noqa: S311
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), pause_s)
                break
            relay_errors |= await self._send(self._repeat_feed(feed), held)
        return relay_errors

    def _repeat_feed(self, feed: MessageFeed) -> RepeatFeed:
        return RepeatFeed(
            self._repeats,
            compose=feed.composed,
            clock=self._now,
            record=self._results.record,
            components=self._components,
        )

    def _may_send(self, held: HeldClaim) -> bool:
        """The last word before a message leaves: false when somebody may have recovered the mail job by now.

        That is so when this process was suspended, or could not reach the database, for the whole hang time.
        """
        if not held.is_leased(self._hang_after_s) and not self._is_lease_over:
            _log.warning("mail job %d: no heartbeat for the whole hang time", self._claim.mail_job_id)
            self._is_lease_over = True
            self._end.set()
        return not self._is_lease_over

    def record(self, result: DeliveryResult) -> asyncio.Future[None]:
        """Egress' `ResultSink`: into the log, with an eye on how many are refused (spec 3.7)."""
        if not self._repeats.was_uncertain(result.message_no):
            self._ended += 1
        result = self._repeats.note(result)
        if result.outcome is Outcome.REJECTED:
            self._rejected += 1
            if not self._gave_up and gives_up(self._ended, self._rejected, self._most_errors):
                share = f"{self._rejected} of {self._ended} messages"
                self._gave_up = f"{share} were rejected, more than {self._most_errors:g} %"
                self._end.set()
        durable = self._results.record(result)
        self._components.watch(result, durable)
        return durable

    async def _keep(self, held: HeldClaim) -> None:
        """Heartbeat, progress, expiry and the outside's wish to stop, beside the delivery."""
        heartbeat_s = self._inst.settings.dispatcher.heartbeat_seconds
        frequency = self._parameters.recovery_string_update_frequency
        told, next_beat = 0, time.monotonic() + heartbeat_s
        next_look = next_hold_look = time.monotonic() + STOP_LOOK_S
        try:
            while True:
                await asyncio.sleep(STOP_POLL_S)
                self._look_for_an_end()
                try:
                    if time.monotonic() >= next_beat:
                        next_beat = time.monotonic() + heartbeat_s
                        self._is_stopping |= await asyncio.to_thread(held.heartbeat, self._now())
                        crash_point("heartbeat_written")
                        next_look = time.monotonic() + STOP_LOOK_S
                    counts = dict(self._results.counts)
                    if sum(counts.values()) - told >= frequency:
                        told = sum(counts.values())
                        self._is_stopping |= await asyncio.to_thread(held.progress, counts)
                        crash_point("progress_written")
                        next_look = time.monotonic() + STOP_LOOK_S
                    if time.monotonic() >= next_look:
                        next_look = time.monotonic() + STOP_LOOK_S
                        self._is_stopping |= await asyncio.to_thread(held.is_asked_to_stop)
                    if time.monotonic() >= next_hold_look:
                        next_hold_look = time.monotonic() + STOP_LOOK_S
                        self._is_held |= await asyncio.to_thread(held.is_sending_held)
                except DatabaseUnavailable as error:
                    # Perhaps of this one connection: the next beat opens another. If the database is gone the
                    # results log meets the same and ends the delivery.
                    _log.warning("mail job %d: no heartbeat: %s", self._claim.mail_job_id, error)
        except Exception as error:
            _log.warning("mail job %d: heartbeat failed: %s", self._claim.mail_job_id, error)
            self._trouble = error
            self._end.set()

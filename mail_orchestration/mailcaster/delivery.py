"""One mail job in a mailcaster's hands: deliver its messages, and settle how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence

from mail_orchestration.composition.context import envelope_sender
from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import HeldClaim
from mail_orchestration.dispatch.failure_policy import gives_up
from mail_orchestration.dispatch.send_window import send_window
from mail_orchestration.egress.delivery import MessageSource, StillWanted, deliver
from mail_orchestration.egress.relay import Relay
from mail_orchestration.feedback.results_log import ResultsLog
from mail_orchestration.frozen import FrozenRelease
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
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
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster.keeper import Keeper
from mail_orchestration.mailcaster.mail_job_done import MailJobDone
from mail_orchestration.mailcaster.message_feed import MessageFeed
from mail_orchestration.mailcaster.repeats import RepeatFeed, Repeats
from mail_orchestration.sending.components import SendComponents
from mail_orchestration.sending.station import Station
from mail_orchestration.sending.when_back import when_back

_log = logging.getLogger(__name__)


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
        self._held = HeldClaim(inst.database, claim)
        self._gave_up = ""
        self._relay_errors: dict[str, str] = {}
        self._most_attempts = 1
        self._results = ResultsLog(
            inst.database,
            release_id=claim.release_id,
            released_on=claim.released_on,
            mail_job_id=claim.mail_job_id,
            fence=claim.fence,
            dispatcher=inst.settings.dispatcher,
        )

    def run(self) -> MailJobDone:
        """Deliver and settle. Raises ClaimLost when somebody else has the mail job.

        Raises DatabaseUnavailable and BadSettings too: the mail job is handed back then, as soon as the database lets
        it, with the results that it kept from being written. What has none is for the next shift.
        """
        began = time.monotonic()
        try:
            with self._held:
                state = self._deliver_and_settle()
        except (DatabaseUnavailable, BadSettings):
            self._hand_back()
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
            **{str(outcome): max(0, count) for outcome, count in self._results.counts.items()},
        )

    def _deliver_and_settle(self) -> MailJobState:
        try:
            self._frozen = self._read_frozen()
            self._components = SendComponents(self._frozen.campaign.definition.components)
            self._keeper = Keeper(
                self._held,
                self._inst.settings.dispatcher,
                progress_every=self._parameters.recovery_string_update_frequency,
                stop=self._stop,
                expires_at=self._frozen.release.expires_at,
                window=send_window(self._inst.settings),
                components=self._components,
                now=self._now,
            )
            self._keeper.ask()
            self._relay_errors = self._station.run(self._deliver())
        except BadSettings:
            raise
        except (RelayUnreachable, ComponentFailed, BadInput) as error:
            self._gave_up = str(error)
        crash_point("delivery_ended")
        self._held.progress(self._results.counts)
        return self._settle()

    def _settle(self) -> MailJobState:
        """Every message has a result: finished. Else it was given up, asked to stop, or the shift ends."""
        now = self._now()
        if self._gave_up:
            crash_point("before_giving_up")
            return self._held.fail(self._gave_up, now)
        try:
            return self._held.finish(now, most_attempts=self._most_attempts)
        except StateConflict:
            if self._keeper.is_stopping:
                crash_point("stop_noticed")
                state = self._held.let_go_stopped(now)
                crash_point("stop_committed")
                return state
            if not self._keeper.is_interrupted:
                raise
            crash_point("before_hand_back")
            self._held.hand_back()
            crash_point("after_hand_back")
            return MailJobState.RUNNING

    def _hand_back(self) -> None:
        """Rather than leave it to hang for hours. A stop does not wait for it, unless results wait to be written."""
        try:
            when_back(
                lambda: self._held.hand_back(self._results.write_late),
                is_over=lambda: self._stop.is_set() and not self._results.unwritten,
            )
        except ClaimLost:
            return
        except DatabaseUnavailable as error:
            _log.warning("mail job %d hangs until it is recovered: %s", self._claim.mail_job_id, error)

    async def _deliver(self) -> dict[str, str]:
        definition = self._frozen.campaign.definition
        if definition.on_uncertain == "resend":
            self._most_attempts = self._inst.settings.dispatcher.max_attempts
        self._repeats = Repeats(self._inst.database, self._claim, self._most_attempts)
        async with self._results as log:
            self._rejected, self._ended = 0, 0
            self._most_errors = definition.maximum_error_percentage
            feed = MessageFeed(
                self._inst.database,
                self._claim,
                self._frozen.compressor,
                reverse_path=envelope_sender(self._frozen.facts, definition),
                clock=self._now,
                record=log.record,
                components=self._components,
                pace=self._station.pace,
            )
            self._keeper.look()
            keeping = asyncio.create_task(self._keeper.keep(log))
            try:
                relay_errors = await self._send(feed, feed.still_wanted, feed.left)
                relay_errors |= await self._send_again(feed)
                if self._keeper.trouble is not None:
                    raise self._keeper.trouble
                if self._keeper.has_expired:
                    await feed.expire()
                    await self._repeat_feed(feed).give_up("the campaign has expired")
                await self._components.finish()
                return relay_errors
            finally:
                # Compiled, errors of connections would mix with one that is under way here: they are all done by now.
                keeping.cancel()
                await asyncio.gather(keeping, feed.close(), return_exceptions=True)

    async def _send(
        self,
        source: MessageSource,
        still_wanted: StillWanted | None = None,
        left: Callable[[], float] = lambda: math.inf,
    ) -> dict[str, str]:
        report = await deliver(
            source,
            self,
            self._relays,
            connections=self._parameters.connections,
            stop=self._keeper.end,
            unreachable_after_s=self._inst.settings.dispatcher.relay_unreachable_after_seconds,
            clock=self._now,
            idle=self._station.idle,
            may_send=self._keeper.may_send,
            throttle=self._station.throttle,
            still_wanted=still_wanted,
            left=left,
        )
        return report.last_relay_errors

    async def _send_again(self, feed: MessageFeed) -> dict[str, str]:
        """Uncertain messages once more, pass after pass, each after the pause that a relay gets which failed."""
        relay_errors: dict[str, str] = {}
        for number in itertools.count(1):
            if self._keeper.end.is_set() or not await self._repeats.are_left():
                break
            pause_s = max(relay.backoff.seconds(number, random.random()) for relay in self._relays)  # noqa: S311
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._keeper.end.wait(), pause_s)
            if self._keeper.end.is_set():
                break
            relay_errors |= await self._send(self._repeat_feed(feed))
        return relay_errors

    def _repeat_feed(self, feed: MessageFeed) -> RepeatFeed:
        return RepeatFeed(
            self._repeats,
            compose=feed.composed,
            clock=self._now,
            record=self._results.record,
            components=self._components,
        )

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
                self._keeper.end.set()
        durable = self._results.record(result)
        self._components.watch(result, durable)
        return durable

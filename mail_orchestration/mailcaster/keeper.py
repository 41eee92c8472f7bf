"""Beside a delivery: the heart of the mail job is kept beating, and whatever should end it early is looked for."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime

from mail_orchestration.dispatch.claims import HeldClaim
from mail_orchestration.dispatch.send_window import SendWindow
from mail_orchestration.feedback.results_log import ResultsLog
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.errors import DatabaseUnavailable
from mail_orchestration.kernel.fleet_settings import DispatcherSettings
from mail_orchestration.sending.components import SendComponents

_log = logging.getLogger(__name__)

STOP_POLL_S = 0.2
"""How often a stop that came from a signal or from another thread is looked for, and the campaign's expiry."""
STOP_LOOK_S = 1.0
"""How often a stop that the operator asked for in the database is looked for, if no other write has told."""


class Keeper:
    """Keeps one mail job while it is delivered, and sets `end` once nothing more of it is to be sent."""

    def __init__(
        self,
        held: HeldClaim,
        dispatcher: DispatcherSettings,
        *,
        progress_every: int,
        stop: threading.Event,
        expires_at: datetime | None,
        window: SendWindow,
        components: SendComponents,
        now: Callable[[], datetime],
    ) -> None:
        self._held = held
        self._dispatcher = dispatcher
        self._progress_every = progress_every
        self._stop = stop
        self._expires_at = expires_at
        self._window = window
        self._components = components
        self._now = now
        self.end = asyncio.Event()
        self.is_stopping = False
        """The operator asked for a stop of this mail job."""
        self.is_held = False
        """All sending is held."""
        self.is_closed = False
        """The send window is over."""
        self.has_expired = False
        self.is_lease_over = False
        """Somebody may have recovered the mail job."""
        self.trouble: Exception | None = None
        """Why the heart beats no more."""

    @property
    def is_interrupted(self) -> bool:
        """The mail job did not come to its end here, for a reason that is none of its own."""
        return self._stop.is_set() or self.is_lease_over or self.is_held or self.is_closed

    def ask(self) -> None:
        """A stop or a hold that was asked for while the claim was being made saw nobody to wait for."""
        self.is_stopping, self.is_held = self._held.is_asked_to_stop(), self._held.is_sending_held()

    def look(self) -> None:
        """Set `end` if anything that is known by now says so; asks no database."""
        now = self._now()
        self.has_expired |= self._expires_at is not None and now >= self._expires_at
        self.is_closed |= not self._window.is_open_at(now)
        if (
            self._stop.is_set()
            or self.has_expired
            or self.is_stopping
            or self.is_held
            or self.is_closed
            or self._components.failure is not None
        ):
            self.end.set()

    def may_send(self) -> bool:
        """The last word before a message leaves: false when somebody may have recovered the mail job by now.

        That is so when this process was suspended, or could not reach the database, for the whole hang time.
        """
        if not self._held.is_leased(self._dispatcher.hang_after_seconds) and not self.is_lease_over:
            _log.warning("mail job %d: no heartbeat for the whole hang time", self._held.claim.mail_job_id)
            self.is_lease_over = True
            self.end.set()
        return not self.is_lease_over

    async def keep(self, log: ResultsLog) -> None:
        """Heartbeat, progress, expiry and the outside's wish to stop, until it is cancelled.

        What the heart cannot survive, such as the loss of the claim, is kept as `trouble`.
        """
        mail_job_id = self._held.claim.mail_job_id
        heartbeat_s = self._dispatcher.heartbeat_seconds
        told, next_beat = 0, time.monotonic() + heartbeat_s
        next_look = next_hold_look = time.monotonic() + STOP_LOOK_S
        try:
            while True:
                await asyncio.sleep(STOP_POLL_S)
                self.look()
                try:
                    if time.monotonic() >= next_beat:
                        next_beat = time.monotonic() + heartbeat_s
                        self.is_stopping |= await asyncio.to_thread(self._held.heartbeat, self._now())
                        crash_point("heartbeat_written")
                        next_look = time.monotonic() + STOP_LOOK_S
                    counts = dict(log.counts)
                    if sum(counts.values()) - told >= self._progress_every:
                        told = sum(counts.values())
                        self.is_stopping |= await asyncio.to_thread(self._held.progress, counts)
                        crash_point("progress_written")
                        next_look = time.monotonic() + STOP_LOOK_S
                    if time.monotonic() >= next_look:
                        next_look = time.monotonic() + STOP_LOOK_S
                        self.is_stopping |= await asyncio.to_thread(self._held.is_asked_to_stop)
                    if time.monotonic() >= next_hold_look:
                        next_hold_look = time.monotonic() + STOP_LOOK_S
                        self.is_held |= await asyncio.to_thread(self._held.is_sending_held)
                except DatabaseUnavailable as error:
                    # Perhaps of this one connection: the next beat opens another. If the database is gone the
                    # results log meets the same and ends the delivery.
                    _log.warning("mail job %d: no heartbeat: %s", mail_job_id, error)
        except Exception as error:
            _log.warning("mail job %d: heartbeat failed: %s", mail_job_id, error)
            self.trouble = error
            self.end.set()

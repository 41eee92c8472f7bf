"""What one worker has in hand of an installation's loose mails: reserved, kept, given back (spec 6.3, 7.2)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime

from mail_orchestration.dispatch.loose_mails import (
    ReservedMail,
    ensure_delivery_log,
    give_back,
    renew_reservations,
    reserve_loose_mails,
)
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.errors import DatabaseUnavailable
from mail_orchestration.kernel.loose_mail_states import LooseMailKind

_log = logging.getLogger(__name__)


class Reservations:
    """The mails between a reservation and a durable result, turn by turn: each turn ends with `give_back`."""

    def __init__(
        self,
        inst: Installation,
        worker: str,
        *,
        kinds_at: Callable[[datetime], Collection[LooseMailKind]],
        most: int,
        clock: Callable[[], datetime],
    ) -> None:
        """At most `most` are reserved at once, of the kinds that `kinds_at` names for that moment of `clock`."""
        self._inst = inst
        self._worker = worker
        self._kinds_at = kinds_at
        self._most = most
        self._clock = clock
        self._lease_s = 60 * inst.settings.dispatcher.reservation_minutes
        self._in_hand: dict[int, ReservedMail] = {}
        """The longest reserved first."""
        self._reading: asyncio.Future[list[ReservedMail]] | None = None
        self._has_run_out = False
        self._log_until: date | None = None
        """The day from which on there may be no partition of the delivery log."""

    def __len__(self) -> int:
        """How many are in hand."""
        return len(self._in_hand)

    def kinds(self) -> set[LooseMailKind]:
        """Of which kinds they are."""
        return {mail.kind for mail in self._in_hand.values()}

    async def reserve(self) -> list[ReservedMail]:
        """Take the next ones in hand, in the order in which they go. Raises DatabaseUnavailable.

        One that may have ended its worker before comes alone, and nothing comes while it is in hand: none of the others
        is there when it does so again.
        """
        if any(mail.run_outs for mail in self._in_hand.values()):
            return []
        self._reading = asyncio.ensure_future(asyncio.to_thread(self._read))
        # Whoever is cancelled here leaves it to `give_back` to return what was reserved nevertheless.
        mails = await asyncio.shield(self._reading)
        self._reading = None
        self._in_hand |= {mail.loose_mail_id: mail for mail in mails}
        if mails:
            crash_point("loose_mails_reserved")
        return mails

    def settled(self, loose_mail_id: int) -> None:
        """It has its result: it is in hand no more."""
        self._in_hand.pop(loose_mail_id, None)

    def has_run_out(self) -> bool:
        """Whether somebody else may have reserved something of it by now; once in a turn, then to its end."""
        oldest = next(iter(self._in_hand.values()), None)
        if oldest is not None and steady_seconds() - oldest.reserved_at >= self._lease_s:
            self._run_out()
        return self._has_run_out

    async def renew(self) -> bool:
        """Keep what has used up a third of its time. False when one of them is somebody else's by now.

        Raises DatabaseUnavailable; what is in hand then holds for what is left of its time.
        """
        mails = list(self._in_hand.values())
        if not mails or steady_seconds() - mails[0].reserved_at < self._lease_s / 3:
            return True
        began = steady_seconds()
        kept = await asyncio.to_thread(self._renewed, mails)
        for mail in mails:
            if mail.loose_mail_id not in self._in_hand:
                continue  # It has its result meanwhile.
            if mail.loose_mail_id not in kept:
                # It may be on a connection at this moment: nothing more leaves.
                self._run_out()
                return False
            del self._in_hand[mail.loose_mail_id]
            self._in_hand[mail.loose_mail_id] = mail.reserved_again(began)
        return True

    async def give_back(self) -> None:
        """What has no result is free for others, and out of hand: at once, or when the reservation has run out."""
        mails = list(self._in_hand.values())
        if self._reading is not None:
            (found,) = await asyncio.gather(self._reading, return_exceptions=True)
            mails += found if isinstance(found, list) else []
        self._in_hand, self._reading, self._has_run_out = {}, None, False
        if not mails:
            return
        crash_point("loose_mails_unsent")
        try:
            await asyncio.to_thread(self._given_back, mails)
        except DatabaseUnavailable as error:
            _log.warning("%d loose mails wait until their reservation runs out: %s", len(mails), error)

    def _run_out(self) -> None:
        if not self._has_run_out:
            _log.warning("%s: a reservation has run out", self._worker)
        self._has_run_out = True

    def _read(self) -> list[ReservedMail]:
        began, now = steady_seconds(), self._clock()
        with self._inst.database.begin() as connection:
            if self._log_until is None or now.date() >= self._log_until:
                self._log_until = ensure_delivery_log(connection, now)
        with self._inst.database.begin() as connection:
            return reserve_loose_mails(
                connection,
                self._inst.installation_id,
                self._worker,
                kinds=self._kinds_at(now),
                most=self._most,
                for_s=self._lease_s,
                now=now,
                began=began,
                is_free=not self._in_hand,
            )

    def _renewed(self, mails: Sequence[ReservedMail]) -> set[int]:
        with self._inst.database.begin() as connection:
            return renew_reservations(connection, mails, for_s=self._lease_s, now=self._clock())

    def _given_back(self, mails: Sequence[ReservedMail]) -> None:
        with self._inst.database.begin() as connection:
            give_back(connection, mails)

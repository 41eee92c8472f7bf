"""The messages at hand: taken somewhat ahead from the source, given back by connections that failed."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from mail_orchestration.egress.gate import Gate
from mail_orchestration.egress.parking import Parking
from mail_orchestration.egress.ports import MessageSource, StillWanted
from mail_orchestration.egress.slots_at_hand import Opening
from mail_orchestration.kernel.attempts import OutgoingMessage
from mail_orchestration.kernel.clock import steady_seconds

MOST_OCTETS_AHEAD = 8 * 1024 * 1024
"""Messages at hand but not on a connection never take more memory than this and one message: less, where they are read
from the store when their turn comes."""


class Turn:
    """A message that its recipient's domain lets begin now."""

    __slots__ = ("gate", "message", "slot")

    def __init__(
        self, message: OutgoingMessage, gate: Gate | None = None, slot: Opening | None = None
    ) -> None:
        self.message = message
        self.gate = gate
        self.slot = slot

    @property
    def is_over(self) -> bool:
        """Whether it is too late to begin."""
        return self.slot is not None and self.slot.is_shut


class Feed:
    """One for all connections of a delivery."""

    def __init__(
        self,
        source: MessageSource,
        messages_ahead: int,
        gate_of_address: Callable[[str], Gate | None],
        still_wanted: StillWanted,
        left_in_source: Callable[[], float],
    ) -> None:
        self._source = source
        self._still_wanted = still_wanted
        self._left_in_source = left_in_source
        self._most = messages_ahead
        self._gate_of_address = gate_of_address
        self._ready: deque[OutgoingMessage] = deque()
        self._parking = Parking(self._rouse)
        self._octets = 0
        self._hungry: deque[asyncio.Future[None]] = deque()
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_exhausted = self._is_over = False
        self._breaks: dict[int, int] = {}
        self.taken = 0
        """How many messages the source has given and not taken back."""

    async def fill(self) -> None:
        """Take from the source until it has no more. What the source raises comes through."""
        loop = asyncio.get_running_loop()
        while (message := await self._source.take()) is not None:
            self.taken += 1
            self._ready.append(message)
            self._octets += message.octets
            self._wake(1)
            while len(self._ready) >= self._most or self._octets > MOST_OCTETS_AHEAD or self._parking.is_full:
                self._room = loop.create_future()
                await self._room
        self._is_exhausted = True
        self._wake(len(self._hungry))

    def end(self) -> None:
        """The delivery ends: whoever waits gets None."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._wake(len(self._hungry))

    def left(self) -> float:
        """At most so many messages are not in the hands of a connection yet."""
        coming = 0 if self._is_exhausted else self._left_in_source()
        return coming + len(self._ready) + len(self._parking)

    @property
    def is_at_hand(self) -> bool:
        """Whether there is a message that does not wait for its domain."""
        return bool(self._ready)

    def take_now(self) -> OutgoingMessage | None:
        """The next message if one is at hand that does not wait for its domain."""
        if not self._ready:
            return None
        message = self._ready.popleft()
        self._octets -= message.octets
        self._make_room()
        return message

    async def take(self) -> OutgoingMessage | None:
        """The next message, waiting for it; None when no more comes."""
        loop = asyncio.get_running_loop()
        while not self._is_over:
            message = self.take_now() or self._parking.leave_for_a_session()
            if message is not None:
                return message
            if self._is_exhausted and not self._parking:
                self._wake(len(self._hungry))
                return None
            turn: asyncio.Future[None] = loop.create_future()
            self._hungry.append(turn)
            self._rouse()
            await turn
        return self.take_now()

    def admit(self, message: OutgoingMessage, ahead_s: float = 0.0, now: float | None = None) -> Turn | None:
        """What may begin in place of `message`, which is at hand: one that has waited longer, itself, or one behind it.

        None when all that is at hand waits for its domain. A slot stays open for `ahead_s` seconds from `now`, the
        steady clock, where the caller has just looked.
        """
        if self._parking and (parked := self._parking.leave(ahead_s)) is not None:
            self.give_back(message)
            self._make_room()
            return Turn(*parked)
        following: OutgoingMessage | None = message
        while following is not None:
            gate = self._gate_of_address(following.address)
            if gate is None:
                return Turn(following)
            if not gate.parked and (slot := gate.try_enter(ahead_s, now)) is not None:
                return Turn(following, gate, slot)
            if ahead_s:
                # It is not its turn yet: whether it must wait is seen then.
                self.give_back(following)
                return None
            self._parking.park(gate, following)
            following = self.take_now()
        return None

    def give_up(self, turn: Turn) -> None:
        """The message of a turn could not begin in time: it is the first to get the next one."""
        if turn.gate is None or turn.slot is None:
            self.give_back(turn.message)
        else:
            turn.slot.put_back()
            self._parking.take_back(turn.gate, turn.message)

    def is_stale(self, message: OutgoingMessage) -> bool:
        """Whether `message` waited for its domain for so long that it must be asked about first."""
        return self._parking.is_stale(message)

    async def is_wanted(self, message: OutgoingMessage) -> bool:
        """Ask the source about a stale one; what it wants no more is no longer ours. What it raises comes through."""
        self._parking.refresh(message)
        wanted = await self._still_wanted(message)
        self.taken -= not wanted
        return wanted

    def give_back(self, message: OutgoingMessage) -> None:
        """`message` is unsent and comes next."""
        self._ready.appendleft(message)
        self._octets += message.octets
        self._wake(1)

    def count_break(self, message: OutgoingMessage) -> int:
        """How many connections in a row `message` has now broken before its final dot."""
        broken = self._breaks[message.message_no] = self._breaks.get(message.message_no, 0) + 1
        return broken

    def _make_room(self) -> None:
        room = self._room
        if (
            room is not None
            and len(self._ready) <= self._most // 2
            and self._octets <= MOST_OCTETS_AHEAD // 2
            and not self._parking.is_full
        ):
            self._room = None
            if not room.done():
                room.set_result(None)

    def _rouse(self) -> None:
        """Wake somebody when the next message may leave that waits for its domain."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        moment = self._parking.next_at()
        if self._hungry and not self._is_over and moment < math.inf:
            wait_s = max(moment - steady_seconds(), 0.0005)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._rouse_one)

    def _rouse_one(self) -> None:
        self._timer = None
        self._wake(1)

    def _wake(self, how_many: int) -> None:
        while how_many > 0 and self._hungry:
            turn = self._hungry.popleft()
            if not turn.done():
                turn.set_result(None)
                how_many -= 1

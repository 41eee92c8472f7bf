"""Where messages wait for the slots of one limit, and how many of them are asked for (spec 6.7)."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from mail_orchestration.egress.ports import Scope, Slice, Unused
from mail_orchestration.kernel.clock import steady_seconds

LEAD_S = 0.2
"""More slots are asked for when those at hand end so soon."""
HORIZON_S = 0.5
"""So long a time's worth is asked for."""
_SPARE = 9 / 8
"""Somewhat more is asked for than was used, in case that there is more to send now."""


@dataclass(slots=True, eq=False)
class _Held:
    """A slice, and what has become of its slots: those before `at` were used or went by."""

    slice: Slice
    at: int = 0
    used: int = 0
    put_back: int = 0
    """Those that somebody may still use."""
    is_over: bool = False

    def skip_those_over(self, now: float) -> bool:
        """Whether slots are left that are not over."""
        opens, over = self.slice.opens, now - self.slice.lateness_s
        if self.at < len(opens) and opens[self.at] < over:
            self.at = bisect_left(opens, over, self.at)
        return self.at < len(opens)

    @property
    def opens(self) -> float:
        """The moment of the next slot."""
        return self.slice.opens[self.at]


_opens = attrgetter("opens")


@dataclass(slots=True, eq=False)
class Slot:
    """Leave for one message to begin, from one moment to another."""

    gate: Gate
    held: _Held
    opens: float
    shuts: float

    def put_back(self) -> None:
        """It was not used after all: whoever is next may have it."""
        self.gate.put_back(self)


class Gate:
    """One limit, as the connections of one process see it. Lives as long as its Throttle, over many deliveries."""

    def __init__(self, scope: Scope, ask: Callable[[Gate], None]) -> None:
        self.scope = scope
        self._ask = ask
        self._held: list[_Held] = []
        self._put_back: list[Slot] = []
        self._ends_at = float("-inf")
        """When the last slot opens that is at hand."""
        self._again_at = float("-inf")
        self._line: deque[asyncio.Future[Slot | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._on_supply: Callable[[], None] | None = None
        self._done_with: list[Unused] = []
        self._is_asked = False
        self._used, self._used_since = 0, steady_seconds()
        self.parked = 0
        """Messages that wait elsewhere until this gate has slots."""

    def wish(self) -> int:
        """How many slots to ask for, at the moment of asking; 0 when those at hand suffice."""
        now = steady_seconds()
        self._is_asked = False
        if not self._is_short(now):
            return 0
        waiting = len(self._line) + self.parked
        used_a_second = self._used / max(now - self._used_since, LEAD_S)
        self._used, self._used_since = 0, now
        self._is_asked = True
        # While nobody waits all the slots are had that can be used.
        return max(1, waiting + int(used_a_second * HORIZON_S * (2 if waiting else _SPARE)))

    @property
    def is_exhausted(self) -> bool:
        """Whether the limit leaves nothing for a while: better go elsewhere."""
        now = steady_seconds()
        return now < self._again_at and not self._has_slots(now)

    @property
    def is_in_use(self) -> bool:
        """Whether something is at hand, or known of the limit."""
        return bool(self._held or self._put_back or self._done_with) or self.is_exhausted

    def next_at(self) -> float:
        """The moment of the first slot at hand; infinitely far when there is none. More are asked for in time."""
        now = steady_seconds()
        if self.parked:
            self._ask_in_time(now)
        if self._has_slots(now):
            return self._put_back[0].opens if self._put_back else min(held.opens for held in self._held)
        return float("inf")

    def try_enter(self, ahead_s: float = 0.0) -> Slot | None:
        """A slot that is open, and will be `ahead_s` seconds from now; None also when somebody waits in line."""
        if self._line or (ahead_s and self._held and ahead_s > 0.9 * self._held[0].slice.lateness_s):
            return None
        return self._next(steady_seconds(), ahead_s)

    async def enter(self) -> Slot | None:
        """Wait for the next slot; None when the delivery ends, or the limit leaves nothing for a while."""
        turn: asyncio.Future[Slot | None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self._let_in()
        return await turn

    def put_back(self, slot: Slot) -> None:
        """`slot` was not used."""
        slot.held.used -= 1
        slot.held.put_back += 1
        self._used -= 1
        self._put_back.append(slot)
        self._let_in()

    def supply(self, slice_: Slice) -> None:
        """Take what the source gave for the last wish."""
        self._is_asked, self._again_at = False, slice_.again_at
        if slice_.opens:
            self._held.append(_Held(slice_))
            self._ends_at = max(self._ends_at, slice_.opens[-1])
        self._let_in()
        if self._on_supply is not None:
            self._on_supply()

    def watch(self, on_supply: Callable[[], None]) -> None:
        """Call when slots come, or the word that there are none, until the delivery ends."""
        self._on_supply = on_supply
        self._let_in()

    def rest(self) -> None:
        """The delivery ends: nobody waits any more. What is at hand stays for the next one."""
        self._on_supply, self.parked, self._is_asked = None, 0, False
        self.dismiss()

    def dismiss(self) -> None:
        """Send away whoever waits in line."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        line, self._line = self._line, deque()
        for turn in line:
            if not turn.done():
                turn.set_result(None)

    def done_with(self) -> list[Unused]:
        """Slices that came to their end with slots unused: to be told to the source, each once."""
        told, self._done_with = self._done_with, []
        return told

    def give_up_all(self) -> list[Unused]:
        """Everything at hand: to be given back to the source."""
        self._has_slots(float("inf"), unreached=True)
        return self.done_with()

    def _next(self, now: float, ahead_s: float = 0.0) -> Slot | None:
        slot = None
        if self._has_slots(now + ahead_s):
            if self._put_back:
                slot = self._put_back.pop(0)
                slot.held.put_back -= 1
            else:
                held = self._held[0] if len(self._held) == 1 else min(self._held, key=_opens)
                if (opens := held.opens) <= now:
                    slot = Slot(self, held, opens, opens + held.slice.lateness_s)
                    held.at += 1
            if slot is not None:
                slot.held.used += 1
                self._used += 1
        self._ask_in_time(now)
        return slot

    def _is_short(self, now: float) -> bool:
        return self._ends_at < now + LEAD_S and now >= self._again_at

    def _ask_in_time(self, now: float) -> None:
        if not self._is_asked and self._is_short(now):
            self._is_asked = True
            self._ask(self)

    def _has_slots(self, now: float, *, unreached: bool = False) -> bool:
        """Whether slots are at hand that are not over at `now`; those that are go."""
        while self._put_back and self._put_back[0].shuts < now:
            slot = self._put_back.pop(0)
            slot.held.put_back -= 1
            if slot.held.is_over:
                self._done_with.append(Unused(slot.held.slice, 0, 1))
        is_over = False
        for held in self._held:
            left = len(held.slice.opens) - held.at
            if not held.skip_those_over(now):
                is_over = True
                self._finish(held, left if unreached else 0)
        if is_over:
            self._held = [held for held in self._held if held.at < len(held.slice.opens)]
        return bool(self._held or self._put_back)

    def _finish(self, held: _Held, unreached: int) -> None:
        held.is_over = True
        if unused := len(held.slice.opens) - held.used - held.put_back:
            self._done_with.append(Unused(held.slice, unreached, unused))

    def _let_in(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._line:
            if self._line[0].done():  # cancelled while waiting
                self._line.popleft()
                continue
            if self.is_exhausted:
                self.dismiss()
                break
            slot = self._next(steady_seconds())
            if slot is None:
                break
            self._line.popleft().set_result(slot)
        if self._line and self._held:
            self._wake_at(self.next_at(), self._let_in)
        elif self.is_exhausted:
            self._wake_at(self._again_at, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        if self.is_exhausted:
            self._wake_at(self._again_at, self._look_again)
        else:
            self._ask_in_time(steady_seconds())

    def _wake_at(self, moment: float, call: Callable[[], None]) -> None:
        # A timer may fire a millisecond early (uvloop's do): a slot that is not open yet is waited for again.
        wait_s = max(moment - steady_seconds(), 0.0005)
        self._timer = asyncio.get_running_loop().call_later(wait_s, call)

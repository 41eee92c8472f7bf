"""Where messages wait for the slots of one limit, and how many of them are asked for (spec 6.7)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from mail_orchestration.egress.ports import Scope, Slice, Unused
from mail_orchestration.kernel.clock import steady_seconds

LEAD_S = 0.3
"""More slots are asked for when those at hand end so soon."""


@dataclass(slots=True, eq=False)
class _Held:
    """A slice, and what has become of its slots."""

    slice: Slice
    left: int
    used: int = 0
    returned: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """Leave for one message to begin, from one moment to another."""

    gate: Gate
    opens: float
    shuts: float
    held: _Held

    def put_back(self) -> None:
        """It was not used after all: whoever is next may have it."""
        self.gate.put_back(self)


class Gate:
    """One limit, as the connections of one process see it. Lives as long as its Throttle, over many deliveries."""

    def __init__(self, scope: Scope, ask: Callable[[Gate], None]) -> None:
        self.scope = scope
        self._ask = ask
        self._slots: deque[Slot] = deque()
        self._line: deque[asyncio.Future[Slot | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._again_at = float("-inf")
        self._wish = 1
        self._done_with: list[Unused] = []
        self.parked = 0
        """Messages that wait elsewhere until this gate has slots."""
        self._on_supply: Callable[[], None] | None = None

    def wish(self) -> int:
        """How many slots to ask for; 0 when those at hand suffice, or the limit is known to leave none."""
        now = steady_seconds()
        if now < self._again_at or (self._slots and self._slots[-1].opens >= now + LEAD_S):
            return 0
        return max(self._wish, len(self._line) + self.parked)

    @property
    def is_exhausted(self) -> bool:
        """Whether the limit leaves nothing for a while: better go elsewhere."""
        return not self._slots and steady_seconds() < self._again_at

    @property
    def is_in_use(self) -> bool:
        """Whether something is at hand, or known of the limit."""
        return bool(self._slots or self._done_with) or self.is_exhausted

    def next_at(self) -> float:
        """The moment of the first slot at hand; infinitely far when there is none. More are asked for in time."""
        self._forfeit(steady_seconds())
        if self.parked and self.wish():
            self._ask(self)
        return self._slots[0].opens if self._slots else float("inf")

    def try_enter(self, ahead_s: float = 0.0) -> Slot | None:
        """A slot that is open, and will be `ahead_s` seconds from now; None also when somebody waits in line."""
        if self._line or (
            ahead_s and self._slots and 2 * ahead_s > self._slots[0].shuts - self._slots[0].opens
        ):
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
        slot.held.left += 1
        slot.held.used -= 1
        self._slots.appendleft(slot)
        self._let_in()

    def supply(self, slice_: Slice) -> None:
        """Take what the source gave for the last wish."""
        self._again_at = slice_.again_at
        if slice_.opens:
            held = _Held(slice_, len(slice_.opens))
            new = [Slot(self, opens, opens + slice_.lateness_s, held) for opens in slice_.opens]
            # Two slices may interleave: somebody else gave back what lies between.
            self._slots = deque(sorted([*self._slots, *new], key=attrgetter("opens")))
        self._let_in()
        if self._on_supply is not None:
            self._on_supply()

    def watch(self, on_supply: Callable[[], None]) -> None:
        """Call when slots come, or the word that there are none, until the delivery ends."""
        self._on_supply = on_supply
        self._let_in()

    def rest(self) -> None:
        """The delivery ends: nobody waits any more. What is at hand stays for the next one."""
        self._on_supply, self.parked = None, 0
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
        for held in {id(slot.held): slot.held for slot in self._slots}.values():
            unused = len(held.slice.opens) - held.used - held.returned
            self._done_with.append(Unused(held.slice, held.left, unused))
        self._slots.clear()
        return self.done_with()

    def _next(self, now: float, ahead_s: float = 0.0) -> Slot | None:
        self._forfeit(now + ahead_s)
        slot = None
        if self._slots and self._slots[0].opens <= now:
            slot = self._slots.popleft()
            slot.held.used += 1
            self._spend(slot.held)
        if self.wish():
            self._ask(self)
        return slot

    def _forfeit(self, now: float) -> None:
        while self._slots and self._slots[0].shuts < now:
            self._spend(self._slots.popleft().held)

    def _spend(self, held: _Held) -> None:
        held.left -= 1
        if held.left:
            return
        count = len(held.slice.opens)
        if held.used == count:
            self._wish = max(self._wish, 2 * count)
        elif held.used < count * 7 // 8:
            # Slots that we cannot use are slots that somebody else could.
            self._wish = held.used + held.used // 8 + 1
        if unused := count - held.used - held.returned:
            held.returned += unused
            self._done_with.append(Unused(held.slice, 0, unused))

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
        if self._line and self._slots:
            self._wake_at(self._slots[0].opens, self._let_in)
        elif self.is_exhausted:
            self._wake_at(self._again_at, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        if self.is_exhausted:
            self._wake_at(self._again_at, self._look_again)
        else:
            self._ask(self)

    def _wake_at(self, moment: float, call: Callable[[], None]) -> None:
        # A timer may fire a millisecond early (uvloop's do): a slot that is not open yet is waited for again.
        wait_s = max(moment - steady_seconds(), 0.0005)
        self._timer = asyncio.get_running_loop().call_later(wait_s, call)

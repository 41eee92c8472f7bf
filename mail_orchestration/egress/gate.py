"""Where messages wait for the slots of one limit, and how many of them are asked for (spec 6.7)."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from mail_orchestration.egress.ports import Scope, Slice, Unused, Wish
from mail_orchestration.kernel.clock import steady_seconds

LEAD_S = 0.2
"""More slots are asked for when those at hand end so soon."""
HORIZON_S, LONG_HORIZON_S = 0.5, 1.5
"""So long a time's worth is asked for. The long one, with a third of the transactions, is for where nobody waits and
slots keep: the others find what they wish for beside ours, or wait for so long once, when the line turns tight."""
_KEEPS_S = 0.5
_SPARE = 9 / 8
"""Somewhat more is asked for than was used, in case that there is more to send now."""
_OPENINGS = 4
"""A slice is opened in so many parts at least."""


@dataclass(slots=True, eq=False)
class _Held:
    """A slice, and what has become of its messages."""

    slice: Slice
    at: int = 0
    """Those before this one are opened, or their slots went by."""
    begun: int = 0
    put_back: int = 0
    """Those that somebody may still use."""
    is_over: bool = False

    @property
    def opens(self) -> float:
        """The moment of the next slot."""
        return self.slice.opens[self.at // self.slice.weight]

    @property
    def left(self) -> int:
        """Messages that may be opened."""
        return self.slice.messages - self.at

    def skip_those_over(self, now: float) -> bool:
        """Whether slots are left that are not over."""
        over = now - self.slice.lateness_s
        if self.left and self.opens < over:
            first = bisect_left(self.slice.opens, over, self.at // self.slice.weight)
            self.at = min(first * self.slice.weight, self.slice.messages)
        return self.left > 0

    def open_up(self, now: float) -> int:
        """How many messages may begin now; they are no longer left."""
        weight, messages = self.slice.weight, self.slice.messages
        is_open = bisect_right(self.slice.opens, now, self.at // weight)
        most = min(is_open * weight, messages) - self.at
        # One that is large would be all that is at hand: there must be time to ask for more.
        most = min(most, -(-messages // _OPENINGS))
        self.at += most
        return most


_opens = attrgetter("opens")


@dataclass(slots=True, eq=False)
class Opening:
    """Leave for `left` messages to begin before it shuts."""

    gate: Gate
    held: _Held
    messages: int
    left: int
    shuts: float

    @property
    def is_shut(self) -> bool:
        """Whether it is too late to begin."""
        return steady_seconds() >= self.shuts

    def put_back(self) -> None:
        """One that had leave did not begin after all: whoever is next may."""
        self.gate.put_back(self)


class Gate:
    """One limit, as the connections of one process see it. Lives as long as its Throttle, over many deliveries."""

    def __init__(self, scope: Scope, ask: Callable[[Gate], None]) -> None:
        self.scope = scope
        self._ask = ask
        self._held: list[_Held] = []
        self._opening: Opening | None = None
        self._put_back: list[Opening] = []
        """What was put back after its opening had come to an end."""
        self._ends_at = float("-inf")
        """When the last slot opens that is at hand."""
        self._enough = 0
        """With more than so many messages at hand nothing is asked for, whatever their moments."""
        self._half = 0
        """Of what was at hand when slots came last."""
        self._has_room = False
        """Whether the limit gave what was asked for without delay: then it may give more."""
        self._horizon_s = HORIZON_S
        """Of the last wish."""
        self._again_at = float("-inf")
        self._lateness_s = 0.0
        """Of the slots that came last."""
        self._line: deque[asyncio.Future[Opening | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._on_supply: Callable[[], None] | None = None
        self._done_with: list[Unused] = []
        self._is_asked = False
        self._used, self._used_since = 0, steady_seconds()
        self.parked = 0
        """Messages that wait elsewhere until this gate has slots."""

    def wish(self, left: float = math.inf) -> Wish | None:
        """What to ask for, at the moment of asking; None when what is at hand suffices.

        At most `left` more are to come to the gate in this delivery.
        """
        now = steady_seconds()
        self._is_asked = False
        if not (self._is_short(now) or self.is_short_soon(now)):
            return None
        self._close()
        waiting = len(self._line) + self.parked
        is_easy = not waiting and self._lateness_s > _KEEPS_S
        self._horizon_s = LONG_HORIZON_S if is_easy else HORIZON_S
        used = self._horizon_s * self._used / max(now - self._used_since, LEAD_S)
        self._used, self._used_since = 0, now
        at_hand = sum(held.left for held in self._held) if self._has_slots(now) else 0
        # While nobody waits all the slots are had that can be used.
        spare = at_hand if is_easy else 0
        wish = waiting + int(2 * max(used, at_hand)) if waiting else max(1, int(used * _SPARE) - spare)
        if self._lateness_s < LEAD_S and left < math.inf:
            # Slots that are over so soon do not keep until the next delivery begins.
            wish = max(0, min(wish, int(left) + len(self._line) - at_hand))
        self._is_asked = wish > 0
        return Wish(wish, self._horizon_s) if wish else None

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
        """The moment of the first slot at hand, infinitely far when there is none, long ago when one is open already.

        More are asked for in time.
        """
        now = steady_seconds()
        if self.parked:
            self._ask_in_time(now)
        if not self._has_slots(now):
            return float("inf")
        if self._put_back or (self._opening is not None and self._opening.left):
            return float("-inf")
        return min(held.opens for held in self._held if held.left)

    def try_enter(self, ahead_s: float = 0.0) -> Opening | None:
        """Leave to begin within the next `ahead_s` seconds; None also when somebody waits in line."""
        if self._line:
            return None
        opening, now = self._opening, steady_seconds()
        if opening is not None and opening.left and now + ahead_s < opening.shuts:
            opening.left -= 1
            return opening
        if ahead_s and self._held and ahead_s > 0.9 * self._held[0].slice.lateness_s:
            return None
        return self._next(now, ahead_s)

    async def enter(self) -> Opening | None:
        """Wait for the next slot; None when the delivery ends, or the limit leaves nothing for a while."""
        turn: asyncio.Future[Opening | None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self._let_in()
        return await turn

    def put_back(self, opening: Opening) -> None:
        """A message of `opening` did not begin."""
        if opening is self._opening:
            opening.left += 1
        else:
            opening.held.begun -= 1
            opening.held.put_back += 1
            self._used -= 1
            self._put_back.append(opening)
        self._let_in()

    def supply(self, slice_: Slice) -> None:
        """Take what the source gave for the last wish."""
        self._is_asked, self._again_at = False, slice_.again_at
        self._lateness_s = slice_.lateness_s
        if slice_.opens:
            self._held.append(_Held(slice_))
            self._ends_at = max(self._ends_at, slice_.opens[-1])
            self._has_room = slice_.opens[-1] < steady_seconds() + self._horizon_s
            is_one = len(slice_.opens) == 1
            at_hand = self._at_hand()
            self._half = at_hand // 2
            self._enough = int(at_hand * LEAD_S / self._horizon_s) if is_one else slice_.messages
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
        """Slices that came to their end with messages that did not begin: to be told to the source, each once."""
        told, self._done_with = self._done_with, []
        return told

    def give_up_all(self) -> list[Unused]:
        """Everything at hand: to be given back to the source."""
        self._has_slots(float("inf"), unreached=True)
        return self.done_with()

    def _next(self, now: float, ahead_s: float = 0.0) -> Opening | None:
        opening = self._open(now, ahead_s)
        self._ask_in_time(now)
        return opening

    def _open(self, now: float, ahead_s: float) -> Opening | None:
        """Leave for one message, of an opening that does not shut before."""
        if self._opening is not None and self._opening.shuts <= now + ahead_s:
            self._close()
        if not self._has_slots(now + ahead_s):
            return None
        if self._put_back:
            opening = self._put_back.pop(0)
            opening.held.put_back -= 1
            opening.held.begun += 1
            self._used += 1
            return opening
        if self._opening is None:
            held = self._held[0] if len(self._held) == 1 else min(self._held, key=_opens)
            if held.opens > now:
                return None
            shuts = held.opens + held.slice.lateness_s
            messages = held.open_up(now)
            self._opening = Opening(self, held, messages, messages, shuts)
        self._opening.left -= 1
        return self._opening

    def _close(self) -> None:
        """The opening comes to an end: its slice has again what is left of it."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.held.at -= opening.left
            opening.held.begun += opening.messages - opening.left
            self._used += opening.messages - opening.left

    def is_short_soon(self, now: float) -> bool:
        """Whether to ask at once where another gate asks: slots keep, nobody waits, and half of them are gone."""
        is_easy = self._horizon_s == LONG_HORIZON_S and self._used > 0 and not self._line and not self.parked
        return is_easy and self._again_at <= now and self._at_hand() <= self._half

    def _is_short(self, now: float) -> bool:
        if now < self._again_at:
            return False
        if self._has_room and (self._line or self.parked):
            return True
        if self._ends_at >= now + LEAD_S:
            return False
        return self._at_hand() <= self._enough

    def _at_hand(self) -> int:
        left = sum(held.left for held in self._held)
        return left if self._opening is None else left + self._opening.left

    def _ask_in_time(self, now: float) -> None:
        if not self._is_asked and self._is_short(now):
            self._is_asked = True
            self._ask(self)

    def _has_slots(self, now: float, *, unreached: bool = False) -> bool:
        """Whether slots are at hand that are not over at `now`; those that are go."""
        opening = self._opening
        if opening is not None and (not opening.left or opening.shuts <= now):
            self._close()
        if self._put_back:
            self._put_back = [each for each in self._put_back if not self._is_lost(each, now)]
        is_over = False
        for held in self._held:
            reached = -(-held.at // held.slice.weight)
            if not held.skip_those_over(now) and (self._opening is None or self._opening.held is not held):
                is_over = True
                self._finish(held, len(held.slice.opens) - reached if unreached else 0)
        if is_over:
            self._held = [held for held in self._held if not held.is_over]
        return bool(self._held or self._put_back)

    def _is_lost(self, opening: Opening, now: float) -> bool:
        """Whether what was put back is over, which is told then."""
        if opening.shuts > now:
            return False
        opening.held.put_back -= 1
        if opening.held.is_over:
            self._done_with.append(Unused(opening.held.slice, 0, 1))
        return True

    def _finish(self, held: _Held, unreached: int) -> None:
        held.is_over = True
        if unused := held.slice.messages - held.begun - held.put_back:
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
            opening = self._next(steady_seconds())
            if opening is None:
                break
            self._line.popleft().set_result(opening)
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

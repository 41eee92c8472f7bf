"""Where messages wait for the slots of one limit, and how many of them are asked for (spec 6.7)."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from mail_orchestration.egress.ports import Scope, Slice, Unused, Wish
from mail_orchestration.egress.slots_at_hand import Opening, SlotsAtHand
from mail_orchestration.kernel.clock import steady_seconds

LEAD_S = 0.2
"""More slots are asked for when those at hand end so soon."""
HORIZON_S, LONG_HORIZON_S = 0.5, 1.5
"""So long a time's worth is asked for. The long one, with a third of the transactions, is for where nobody waits and
slots keep: the others find what they wish for beside ours, or wait for so long once, when the line turns tight."""
_KEEPS_S = 0.5
_SPARE = 9 / 8
"""Somewhat more is asked for than was used, in case that there is more to send now."""


class Gate:
    """One limit, as the connections of one process see it. Lives as long as its Throttle, over many deliveries."""

    def __init__(self, scope: Scope, ask: Callable[[Gate], None]) -> None:
        self.scope = scope
        self._ask = ask
        self._slots = SlotsAtHand(self.put_back)
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
        self._is_asked = False
        self._used_since = steady_seconds()
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
        self._slots.close()
        waiting = len(self._line) + self.parked
        is_easy = not waiting and self._lateness_s > _KEEPS_S
        self._horizon_s = LONG_HORIZON_S if is_easy else HORIZON_S
        used = self._horizon_s * self._slots.used / max(now - self._used_since, LEAD_S)
        self._slots.used, self._used_since = 0, now
        at_hand = self._slots.left if self._slots.has_slots(now) else 0
        # While nobody waits all the slots are had that can be used.
        spare = at_hand if is_easy else 0
        wish = waiting + int(2 * max(used, at_hand)) if waiting else max(1, int(used * _SPARE) - spare)
        spread_s = self._horizon_s
        if self._lateness_s < LEAD_S and left < math.inf:
            # Slots that are over so soon do not keep until the next delivery begins.
            last = max(0, min(wish, int(left) + len(self._line) - at_hand))
            if last < min(wish, used):
                # Used as fast as those before: those between them would be nobody's.
                spread_s *= last / used
            wish = last
        self._is_asked = wish > 0
        return Wish(wish, self._horizon_s, spread_s) if wish else None

    def is_short_soon(self, now: float) -> bool:
        """Whether to ask at once where another gate asks: slots keep, nobody waits, and half of them are gone."""
        is_easy = (
            self._horizon_s == LONG_HORIZON_S and self._slots.used > 0 and not self._line and not self.parked
        )
        return is_easy and self._again_at <= now and self._slots.left <= self._half

    @property
    def is_exhausted(self) -> bool:
        """Whether the limit leaves nothing for a while: better go elsewhere."""
        now = steady_seconds()
        return now < self._again_at and not self._slots.has_slots(now)

    @property
    def is_in_use(self) -> bool:
        """Whether something is at hand, or known of the limit."""
        return self._slots.is_known or self.is_exhausted

    def next_at(self) -> float:
        """The moment of the first slot at hand, infinitely far when there is none, long ago when one is open already.

        More are asked for in time.
        """
        now = steady_seconds()
        if self.parked:
            self._ask_in_time(now)
        return self._slots.next_at() if self._slots.has_slots(now) else float("inf")

    def try_enter(self, ahead_s: float = 0.0, now: float | None = None) -> Opening | None:
        """Leave to begin within the next `ahead_s` seconds; None also when somebody waits in line.

        `now`: the steady clock, where the caller has just looked.
        """
        if self._line:
            return None
        if now is None:
            now = steady_seconds()
        opening = self._slots.opening
        if opening is not None and opening.left and now + ahead_s < opening.shuts:
            opening.left -= 1
            return opening
        if ahead_s and ahead_s > 0.9 * self._slots.lateness_s:
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
        self._slots.put_back(opening)
        self._let_in()

    def supply(self, slice_: Slice) -> None:
        """Take what the source gave for the last wish."""
        self._is_asked, self._again_at = False, slice_.again_at
        self._lateness_s = slice_.lateness_s
        if slice_.opens:
            self._slots.add(slice_)
            self._ends_at = max(self._ends_at, slice_.opens[-1])
            self._has_room = slice_.opens[-1] < steady_seconds() + self._horizon_s
            is_one = len(slice_.opens) == 1
            at_hand = self._slots.left
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
        return self._slots.done_with()

    def give_up_all(self) -> list[Unused]:
        """Everything at hand: to be given back to the source."""
        return self._slots.give_up_all()

    def _next(self, now: float, ahead_s: float = 0.0) -> Opening | None:
        opening = self._slots.open(now, ahead_s)
        self._ask_in_time(now)
        return opening

    def _is_short(self, now: float) -> bool:
        if now < self._again_at:
            return False
        # With an open slot it is something else that they wait for, such as a relay that is left alone.
        if self._has_room and (self._line or self.parked) and not self._slots.is_open(now):
            return True
        if self._ends_at >= now + LEAD_S:
            return False
        return self._slots.left <= self._enough

    def _ask_in_time(self, now: float) -> None:
        if not self._is_asked and self._is_short(now):
            self._is_asked = True
            self._ask(self)

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
        if self._line and self._slots.has_slices:
            # As of the look at the clock just now: a later one may find them over, and nothing asked for.
            self._wake_at(self._slots.next_at(), self._let_in)
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

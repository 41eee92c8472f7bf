"""The slots of one limit that a process has at hand, until messages begin in them, or they are over (spec 6.7)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from mail_orchestration.egress.ports import Slice, Unused
from mail_orchestration.kernel.clock import steady_seconds

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

    held: _Held
    messages: int
    left: int
    shuts: float
    give_back: Callable[[Opening], None]

    @property
    def is_shut(self) -> bool:
        """Whether it is too late to begin."""
        return steady_seconds() >= self.shuts

    def put_back(self) -> None:
        """One that had leave did not begin after all: whoever is next may."""
        self.give_back(self)


class SlotsAtHand:
    """Of one gate. What is put back into an opening goes to `give_back`, which puts it back here."""

    def __init__(self, give_back: Callable[[Opening], None]) -> None:
        self._give_back = give_back
        self._held: list[_Held] = []
        self._put_back: list[Opening] = []
        """What was put back after its opening had come to an end."""
        self._done_with: list[Unused] = []
        self.opening: Opening | None = None
        self.used = 0
        """Messages that have begun, but for those of the opening."""

    def add(self, slice_: Slice) -> None:
        """Its slots are at hand."""
        self._held.append(_Held(slice_))

    @property
    def is_known(self) -> bool:
        """Whether something is at hand, or is to be told to the source."""
        return bool(self._held or self._put_back or self._done_with)

    @property
    def has_slices(self) -> bool:
        """Whether there are slices, opened or not."""
        return bool(self._held)

    @property
    def left(self) -> int:
        """Messages that may begin, but for those that were put back."""
        unopened = sum(held.left for held in self._held)
        return unopened if self.opening is None else unopened + self.opening.left

    @property
    def lateness_s(self) -> float:
        """Of the slice that came first; infinite without any."""
        return self._held[0].slice.lateness_s if self._held else float("inf")

    def next_at(self) -> float:
        """The moment of the first slot, where `has_slots`; long ago when one is open already."""
        if self._put_back or (self.opening is not None and self.opening.left):
            return float("-inf")
        return min(held.opens for held in self._held if held.left)

    def is_open(self, now: float) -> bool:
        """Whether a message could begin at once."""
        return self.has_slots(now) and self.next_at() <= now

    def open(self, now: float, ahead_s: float = 0.0) -> Opening | None:
        """Leave for one message, of an opening that does not shut within `ahead_s` seconds."""
        if self.opening is not None and self.opening.shuts <= now + ahead_s:
            self.close()
        if not self.has_slots(now + ahead_s):
            return None
        if self._put_back:
            opening = self._put_back.pop(0)
            opening.held.put_back -= 1
            opening.held.begun += 1
            self.used += 1
            return opening
        if self.opening is None:
            held = self._held[0] if len(self._held) == 1 else min(self._held, key=_opens)
            if held.opens > now:
                return None
            shuts = held.opens + held.slice.lateness_s
            messages = held.open_up(now)
            self.opening = Opening(held, messages, messages, shuts, self._give_back)
        self.opening.left -= 1
        return self.opening

    def put_back(self, opening: Opening) -> None:
        """A message of `opening` did not begin."""
        if opening is self.opening:
            opening.left += 1
        else:
            opening.held.begun -= 1
            opening.held.put_back += 1
            self.used -= 1
            self._put_back.append(opening)

    def close(self) -> None:
        """The opening comes to an end: its slice has again what is left of it."""
        opening, self.opening = self.opening, None
        if opening is not None:
            opening.held.at -= opening.left
            opening.held.begun += opening.messages - opening.left
            self.used += opening.messages - opening.left

    def has_slots(self, now: float, *, unreached: bool = False) -> bool:
        """Whether slots are at hand that are not over at `now`; those that are go.

        `unreached`: the slots of theirs that never opened will not be used, and others may.
        """
        opening = self.opening
        if opening is not None and (not opening.left or opening.shuts <= now):
            self.close()
        if self._put_back:
            self._put_back = [each for each in self._put_back if not self._is_lost(each, now)]
        is_over = False
        for held in self._held:
            reached = -(-held.at // held.slice.weight)
            if not held.skip_those_over(now) and (self.opening is None or self.opening.held is not held):
                is_over = True
                self._finish(held, len(held.slice.opens) - reached if unreached else 0)
        if is_over:
            self._held = [held for held in self._held if not held.is_over]
        return bool(self._held or self._put_back)

    def done_with(self) -> list[Unused]:
        """Slices that came to their end with messages that did not begin: to be told to the source, each once."""
        told, self._done_with = self._done_with, []
        return told

    def give_up_all(self) -> list[Unused]:
        """Everything at hand: to be given back to the source."""
        self.has_slots(float("inf"), unreached=True)
        return self.done_with()

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

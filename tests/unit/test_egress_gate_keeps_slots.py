"""A gate and whatever its users do: each message begins in a slot of its own, and the source learns what was left."""

from __future__ import annotations

from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.egress.gate import Gate
from mail_orchestration.egress.ports import Scope, Slice
from mail_orchestration.egress.slots_at_hand import Opening


@dataclass
class World:
    """A gate, its clock, and what was begun."""

    now: float = 1000.0
    slices: list[Slice] = field(default_factory=list)
    begun: list[tuple[Opening, float, float]] = field(default_factory=list)
    """With the moment of leave, and the moment at which the relay may get it."""

    def __post_init__(self) -> None:
        self.gate = Gate(Scope("relay", "r.example"), lambda _: None)

    def supply(self, soon: float, gaps: list[float], weight: int, lacks: int, lateness: float) -> None:
        opens = [self.now + soon + sum(gaps[:number]) for number in range(len(gaps))]
        messages = len(opens) * weight - min(lacks, weight - 1)
        self.slices.append(Slice(self.gate.scope, opens, weight, messages, lateness, 0.0, None))
        self.gate.supply(self.slices[-1])

    def enter(self, ahead: float) -> None:
        opening = self.gate.try_enter(ahead)
        if opening is not None:
            self.begun.append((opening, self.now, self.now + ahead))

    def put_back(self, which: int) -> None:
        if self.begun:
            self.begun.pop(which % len(self.begun))[0].put_back()

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def ask(self) -> None:
        self.gate.wish()


short = st.floats(0, 1.0)
doings = st.one_of(
    st.tuples(st.just("wait"), st.floats(0, 0.3)),
    st.tuples(st.just("enter"), st.sampled_from([0.0, 0.0, 0.1, 0.5])),
    st.tuples(st.just("enter"), st.just(0.0)),
    st.tuples(st.just("put_back"), st.integers(0, 20)),
    st.tuples(st.just("ask")),
    st.tuples(
        st.just("supply"),
        st.floats(-0.2, 0.5),
        st.lists(st.floats(0, 0.2), min_size=1, max_size=6),
        st.integers(1, 4),
        st.integers(0, 3),
        st.sampled_from([0.0, 0.03, 1.0]),
    ),
)


def shuts(slice_: Slice, slot: int) -> float:
    return slice_.opens[slot] + slice_.lateness_s + 1e-9


@pytest.mark.rule("6.7")
@pytest.mark.parametrize(("waited_s", "is_late"), [(0.5, False), (1.5, True)])
@pytest.mark.parametrize("entered", [1, 3], ids=["left of an opening", "put back after its opening"])
def test_a_slot_is_used_until_its_lateness_is_over(entered: int, waited_s: float, is_late: bool) -> None:
    world = World()
    with patch("mail_orchestration.egress.gate.steady_seconds", lambda: world.now):
        world.supply(soon=0.0, gaps=[0.0], weight=8, lacks=0, lateness=1.0)
        for _ in range(entered):
            world.enter(0.0)
        if entered > 1:
            world.put_back(0)
        begun = len(world.begun)
        world.wait(waited_s)
        world.enter(0.0)
        assert len(world.begun) - begun == (0 if is_late else 1)
        assert sum(each.unused for each in world.gate.give_up_all()) == 8 - len(world.begun)


@pytest.mark.rule("6.7")
@given(st.lists(doings, max_size=60))
def test_each_message_has_a_place_in_a_slot_and_the_rest_is_told(course: list[tuple[str, float]]) -> None:
    world = World()
    with patch("mail_orchestration.egress.gate.steady_seconds", lambda: world.now):
        for doing, *how in course:
            getattr(world, doing)(*how)
        told = [*world.gate.done_with(), *world.gate.give_up_all()]
    for slice_ in world.slices:
        mine = [each for each in world.begun if each[0].held.slice is slice_]
        unused = [each for each in told if each.slice is slice_]
        assert len(mine) + sum(each.unused for each in unused) == slice_.messages
        reached = len(slice_.opens) - sum(each.unreached for each in unused)
        places = [message // slice_.weight for message in range(slice_.messages)]
        for _, left, arrived in sorted(mine, key=lambda each: each[1]):
            fits = (slot for slot in places if slice_.opens[slot] <= left and arrived <= shuts(slice_, slot))
            slot = next(fits, None)
            assert slot is not None, "none is left for it"
            assert slot < reached
            places.remove(slot)

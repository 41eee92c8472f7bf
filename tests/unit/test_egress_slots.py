"""The throttle's arithmetic: takers that come, are late, give back and vanish as they like never exceed a limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.egress import pace
from mail_orchestration.egress.pace import DAY, HOUR, SECOND, SLOTS_A_SECOND, Limits
from mail_orchestration.egress.slots import CALM, Grant, Taken, allot, hand_back

HALF_A_SECOND = SECOND // 2
WINDOWS = {"per_second": SECOND, "per_minute": 60 * SECOND, "per_hour": HOUR, "per_day": DAY}


@dataclass
class Step:
    """One taker's doing: how long after the last one it comes, what it wants, and how it uses what it gets."""

    pause: int
    wanted: int
    lateness: list[float] = field(default_factory=list)
    """For each slot in turn: how late it is used, as a part of what is allowed; above 1, not at all."""
    transit: float = 0.0
    gives_back: float = 0.0
    """The part of the slots, from the end, that it gives back instead."""
    rate: float | None = None
    horizon: int = HALF_A_SECOND
    spread: int | None = None


anything = st.builds(
    Step,
    pause=st.one_of(st.just(0), st.integers(0, SECOND), st.integers(0, HOUR)),
    wanted=st.integers(1, 60),
    lateness=st.lists(st.floats(0, 1.2), min_size=1, max_size=5),
    transit=st.floats(0, 1),
    gives_back=st.one_of(st.just(0.0), st.floats(0, 1)),
    rate=st.sampled_from([None, None, None, 20.0, 3.0, 0.5]),
    horizon=st.sampled_from([HALF_A_SECOND, 3 * HALF_A_SECOND]),
    spread=st.sampled_from([None, None, SECOND // 50, SECOND // 5]),
).map(lambda step: [step])
little_and_late = st.builds(
    lambda times, pause, wanted: [Step(pause, wanted, [1.0], 1.0)] * times,
    st.integers(1, 30),
    st.integers(0, SECOND // 2),
    st.integers(1, 3),
)
much_at_once = st.builds(
    lambda times, pause, wanted: [Step(pause, wanted, [0.0])] * times,
    st.integers(1, 5),
    st.integers(0, SECOND),
    st.integers(10, 200),
)
after_calm = st.integers(1, 3).map(lambda times: [Step(CALM, 1, [1.0], 1.0)] * times)
courses = st.lists(
    st.one_of(anything, anything, little_and_late, much_at_once, after_calm), min_size=1, max_size=20
).map(lambda parts: [step for part in parts for step in part])
limits = st.builds(
    Limits,
    per_second=st.one_of(st.just(0), st.integers(1, 40)),
    per_minute=st.one_of(st.just(0), st.integers(1, 300)),
    per_hour=st.one_of(st.just(0), st.integers(1, 400)),
    per_day=st.one_of(st.just(0), st.integers(1, 500)),
)


def arrivals(limits: Limits, course: list[Step]) -> list[int]:
    """When messages come to the relay."""
    taken, now, found = Taken(), 1_800_000_000 * SECOND, []
    for step in course:
        now += step.pause
        taken, grant = allot(
            taken, limits, step.wanted, now, horizon=step.horizon, spread=step.spread, rate=step.rate
        )
        assert grant.messages <= min(step.wanted, len(grant.moments) * grant.weight)
        kept = len(grant.moments) - int(step.gives_back * len(grant.moments))
        used = 0
        for number in range(min(grant.messages, kept * grant.weight)):
            moment, late = grant.moments[number // grant.weight], step.lateness[number % len(step.lateness)]
            if late <= 1:
                used += 1
                transit = grant.ends_at - grant.moments[-1] - grant.lateness
                found.append(moment + int(late * grant.lateness) + int(step.transit * transit))
        if step.gives_back and grant.moments:
            taken = hand_back(taken, limits, grant, len(grant.moments) - kept, grant.messages - used, now)
    return sorted(found)


@pytest.mark.rule("6.7")
@pytest.mark.parametrize("slots_a_second", [3, SLOTS_A_SECOND], ids=["several messages a slot", "one each"])
@given(limits=limits, course=courses)
def test_no_window_has_more_than_its_limit(slots_a_second: int, limits: Limits, course: list[Step]) -> None:
    with patch.object(pace, "SLOTS_A_SECOND", slots_a_second):
        found = arrivals(limits, course)
    for name, window in WINDOWS.items():
        most = getattr(limits, name)
        for first, last in zip(found, found[most:], strict=False):
            assert not most or last - first >= window, f"{name}: {most + 1} messages in {last - first} µs"


@pytest.mark.rule("6.7")
@pytest.mark.parametrize("per_second", [10, 100, 5000])
def test_from_patient_to_not_the_limit_holds(per_second: int) -> None:
    """Slots of a patient line are all used at the last moment, and then more is asked for than there is."""
    limits = Limits(per_second=per_second)
    patient = [Step(SECOND // 5, max(1, per_second // 20), [1.0], 1.0)] * 20
    found = arrivals(limits, patient + [Step(SECOND // 5, per_second, [0.0])] * 20)
    assert all(last - first >= SECOND for first, last in zip(found, found[per_second:], strict=False))
    used = len([moment for moment in found if moment >= found[-1] - 2 * SECOND])
    assert used >= 0.95 * 2 * per_second


@pytest.mark.rule("6.7")
@pytest.mark.parametrize("takers", [1, 4, 8])
@pytest.mark.parametrize(
    ("limits", "seconds", "most"),
    [
        (Limits(per_second=1), 100, 100),
        (Limits(per_second=50), 20, 1000),
        (Limits(per_minute=600), 120, 1200),
        (Limits(per_minute=7), 600, 70),
        (Limits(per_second=5, per_minute=120), 600, 1200),
        (Limits(per_hour=1000), 24 * 3600, 24_000),
        (Limits(per_second=10, per_day=5000), 5 * 86_400, 25_000),
    ],
    ids=str,
)
def test_who_always_has_work_gets_nearly_all_of_it(
    takers: int, limits: Limits, seconds: int, most: int
) -> None:
    """Each taker comes again when it has used its slots, at the moment of the last one."""
    taken, begin = Taken(), 1_800_000_000 * SECOND
    come, used = [begin] * takers, 0
    while (now := min(come)) < begin + seconds * SECOND:
        taken, grant = allot(taken, limits, 100, now, horizon=HALF_A_SECOND)
        used += grant.messages
        come[come.index(now)] = max(now + 1, grant.moments[-1] if grant.moments else grant.opens_at)
    assert used >= 0.95 * most


@pytest.mark.rule("6.7")
def test_takers_that_can_use_a_part_each_share_the_same_time() -> None:
    """Four that can do a quarter of the limit each: none of them waits for another's slots to pass."""
    taken, grants, limits = Taken(), list[Grant](), Limits(per_second=400)
    for _ in range(4):
        taken, grant = allot(taken, limits, 24, SECOND, horizon=HALF_A_SECOND)
        grants.append(grant)
    assert all(grant.moments[0] < SECOND * 5 // 4 for grant in grants)
    assert all(grant.moments[-1] - grant.moments[0] > SECOND * 3 // 20 for grant in grants)


@pytest.mark.rule("6.7")
def test_the_last_of_a_delivery_leave_no_slots_between_them_to_nobody() -> None:
    """Children of 700 one after the other, each of which asks for what it has left: all of the line is used."""
    limits, horizon = Limits(per_second=1500), HALF_A_SECOND
    # A line that is tight already: those that are not have slots that keep, and nothing is lost.
    taken, grant = allot(Taken(), limits, 2 * 722, SECOND, horizon=horizon)
    now, moments = grant.moments[-1], list[int]()
    for _ in range(20):
        left = 700
        while left:
            wanted = min(left, 500)
            taken, grant = allot(taken, limits, wanted, now, horizon=horizon, spread=horizon * wanted // 722)
            left -= grant.messages
            moments += grant.moments
            now = grant.moments[-1]
    assert len(moments) >= 0.95 * 1500 * (moments[-1] - moments[0]) / SECOND


@pytest.mark.rule("6.7")
def test_what_others_hold_of_a_short_time_makes_no_line_less_patient() -> None:
    limits = Limits(per_second=1500)
    before, _ = allot(Taken(), limits, 280, SECOND, horizon=HALF_A_SECOND)
    after, grant = allot(before, limits, 40, SECOND, horizon=HALF_A_SECOND, spread=SECOND // 50)
    assert grant.messages < 40 / 2, "the others hold more than half of the line"
    assert before.line is not None
    assert after.line is not None
    assert (after.line.interval, after.short_at) == (before.line.interval, before.short_at)


@pytest.mark.rule("6.7")
def test_what_is_given_back_goes_to_the_next() -> None:
    limits = Limits(per_second=10, per_hour=12)
    taken, first = allot(Taken(), limits, 2, SECOND, horizon=HALF_A_SECOND)
    taken, second = allot(taken, limits, 9, SECOND, horizon=HALF_A_SECOND)
    assert len(second.moments) > 1
    taken = hand_back(taken, limits, second, len(second.moments), len(second.moments), SECOND)
    taken, third = allot(taken, limits, 9, SECOND, horizon=HALF_A_SECOND)
    assert third.moments == second.moments
    # Of those that somebody came after nothing is given twice.
    taken = hand_back(taken, limits, first, 2, 0, SECOND)
    _, fourth = allot(taken, limits, 9, SECOND, horizon=HALF_A_SECOND)
    assert not set(fourth.moments) & set(third.moments)


@pytest.mark.rule("6.7")
def test_an_exhausted_quota_says_when_to_come_again() -> None:
    limits, now = Limits(per_hour=5), 1_800_000_000 * SECOND
    taken, grant = allot(Taken(), limits, 9, now, horizon=HALF_A_SECOND)
    assert grant.messages == 5
    taken, nothing = allot(taken, limits, 9, now + SECOND, horizon=HALF_A_SECOND)
    assert nothing.moments == ()
    assert HOUR < nothing.opens_at - now < HOUR * 102 // 100
    assert not allot(taken, limits, 9, nothing.opens_at - 1, horizon=HALF_A_SECOND)[1].moments
    assert allot(taken, limits, 9, nothing.opens_at, horizon=HALF_A_SECOND)[1].messages == 5

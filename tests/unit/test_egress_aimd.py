"""Additive increase and multiplicative decrease: what complaints do to a rate, and what time does (spec 6.7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.egress.aimd import CUT, SLOWEST, STEPS, BackedOff, cut
from mail_orchestration.egress.pace import SECOND

pytestmark = pytest.mark.rule("6.7")

ROUND = 10 * SECOND
START = 1_800_000_000 * SECOND

rates = st.floats(0.01, 10_000)
pauses = st.lists(st.integers(0, 40 * ROUND), max_size=30)


def after(first_rate: float, complaints_after: list[int]) -> tuple[BackedOff, int]:
    """The state after a first complaint and others, each so long after the one before; and the moment."""
    now = START
    state = cut(None, first_rate, "first", now, ROUND)
    for pause in complaints_after:
        now += pause
        state = cut(state, first_rate, "another", now, ROUND)
    return state, now


@given(rates, pauses, st.lists(st.integers(0, 40 * ROUND), min_size=1))
def test_without_complaints_it_only_grows_until_it_is_free(
    first_rate: float, complaints: list[int], waits: list[int]
) -> None:
    state, now = after(first_rate, complaints)
    last = state.rate_at(state.cut_at, ROUND)
    assert last is not None
    assert SLOWEST <= last < state.full_rate
    for moment in sorted(now + wait for wait in waits):
        rate = state.rate_at(moment, ROUND)
        assert (rate is None) == (moment >= state.free_at(ROUND))
        if last is None:
            assert rate is None
        elif rate is not None:
            assert last <= rate < state.full_rate
        last = rate
    assert state.free_at(ROUND) - state.cut_at <= (STEPS + 1) * ROUND


@given(rates, pauses)
def test_a_complaint_halves_the_rate_at_most_once_in_a_round(
    first_rate: float, complaints: list[int]
) -> None:
    state, now = after(first_rate, complaints)
    for pause in (0, ROUND - 1, ROUND, 3 * ROUND):
        moment = max(now, state.cut_at + pause)
        before, found = state.rate_at(moment, ROUND), cut(state, first_rate, "once more", moment, ROUND)
        rate = found.rate_at(moment, ROUND)
        assert rate is not None
        if before is None:
            assert found.since == moment
            assert rate == CUT * found.full_rate
        elif moment - state.cut_at < ROUND:
            assert found == state
        else:
            assert rate == max(SLOWEST, CUT * before)
            assert (found.since, found.full_rate, found.reason) == (state.since, state.full_rate, "once more")


def test_a_rate_of_a_hundred_is_back_after_two_minutes() -> None:
    state = cut(None, 100.0, "421", START, ROUND)
    assert [state.rate_at(START + seconds * SECOND, ROUND) for seconds in (0, 19, 20, 60, 109, 110)] == [
        50.0,
        50.0,
        55.0,
        75.0,
        95.0,
        None,
    ]


def test_a_relay_that_never_stops_complaining_still_gets_some_mail() -> None:
    state, _ = after(100.0, [ROUND] * 50)
    assert state.rate == SLOWEST
    assert state.full_rate == 100.0

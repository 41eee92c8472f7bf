"""The ramp of a new relay: what it may get on each day (spec 6.7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.egress.pace import DAY, Limits
from mail_orchestration.egress.ramp import MOST_PER_DAY, Ramp, ramped

pytestmark = pytest.mark.rule("6.7")


def test_each_day_has_its_limit() -> None:
    ramp = Ramp(messages_on_first_day=500, growth=1.5)
    assert [ramp.per_day(day * DAY) for day in range(5)] == [500, 750, 1125, 1687, 2531]
    assert ramp.per_day(DAY - 1) == 500
    assert ramp.per_day(-DAY) == 500, "a first day that is still to come"


def test_the_day_limit_of_the_settings_stays_above_it() -> None:
    ramp = Ramp(messages_on_first_day=500, growth=2)
    limits = Limits(per_second=5, per_day=1500)
    assert ramped(limits, ramp, 0) == Limits(per_second=5, per_day=500)
    assert ramped(limits, ramp, 2 * DAY) == limits
    assert ramped(Limits(), ramp, 2 * DAY) == Limits(per_day=2000)
    assert ramped(limits, None, 0) == limits
    assert ramped(Limits(), ramp, 40 * DAY) == Limits(), "the ramp is over"


@given(st.integers(1, MOST_PER_DAY - 1), st.floats(1.001, 100), st.integers(0, 100_000))
def test_it_never_falls_and_ends(first: int, growth: float, day: int) -> None:
    ramp = Ramp(messages_on_first_day=first, growth=growth)
    today, tomorrow = ramp.per_day(day * DAY), ramp.per_day((day + 1) * DAY)
    assert today <= MOST_PER_DAY
    assert tomorrow == 0 or 0 < today <= tomorrow

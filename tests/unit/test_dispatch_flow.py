"""Messages on paper: teams with relays of their own, ramps, what is in hand, and no more than ceilings let through."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_orchestration.dispatch.flow import FURTHEST_S, Ceiling, Flow, Team, least_seconds
from mail_orchestration.dispatch.forecasting import forecast
from mail_orchestration.dispatch.sizing import child_size, mean_child_size
from mail_orchestration.kernel.fleet_settings import MailcasterParameters

DAY = 86400.0
FLEET = Ceiling(name="the fleet", per_second=1000)
ceilings = st.builds(
    Ceiling,
    name=st.just("relay"),
    per_second=st.floats(0.5, 1e5),
    quotas=st.lists(
        st.tuples(st.floats(1, 1e5), st.sampled_from([3600.0, DAY])), max_size=2, unique_by=lambda q: q[1]
    ),
)


@settings(max_examples=60, deadline=None)
@given(ceiling=ceilings, messages=st.integers(1, 10**9))
def test_nothing_is_through_sooner_than_its_ceiling_allows(ceiling: Ceiling, messages: int) -> None:
    found = forecast({"example.org": messages}, fleet=Ceiling(name="fast"), relays=[ceiling], domains={})
    least_s = least_seconds(messages, ceiling.most_in)
    if found.seconds is not None:
        assert found.seconds >= 0.998 * min(least_s, messages / ceiling.per_second)
        for most, window_s in ceiling.quotas:
            assert found.seconds >= (math.ceil(messages / most) - 1) * window_s * 0.998
    else:
        assert least_s > 0.95 * FURTHEST_S


def test_a_relay_that_is_slow_makes_the_steps_no_longer() -> None:
    relays = [Ceiling(name="slow", per_second=1), Ceiling(name="fast", per_second=10_000)]
    found = forecast({"example.org": 10**6}, fleet=Ceiling(name="fleet"), relays=relays, domains={})
    assert found.seconds == pytest.approx(100, rel=0.01)


def test_a_ramp_lets_more_through_each_day() -> None:
    ramped = Ceiling(name="new", ramp=lambda seconds: 1000 * 2.0 ** (seconds // DAY))
    # 1,000 on the first day, 2,000 and 4,000 on the next; the last 500 as the fourth begins.
    found = forecast({"example.org": 7500}, fleet=FLEET, relays=[ramped], domains={})
    assert found.seconds == pytest.approx(3 * DAY, rel=0.01)
    assert found.limited_by == "new"


def test_who_may_use_one_relay_only_leaves_the_others_to_the_others() -> None:
    relays = [Ceiling(name="a", per_second=10), Ceiling(name="b", per_second=100)]
    anywhere = Team(ceiling=Ceiling(name="anywhere", per_second=50))
    only_a = Team(ceiling=Ceiling(name="only a", per_second=50), relays=frozenset("a"))
    flow = Flow({"example.org": 1e6}, teams=[anywhere, only_a], relays=relays, domains={})
    through = flow.through({"example.org": 1e6}, 0.0)
    assert sum(through.sent.values()) == pytest.approx((10 + 50) * flow.step_s)


def test_a_domain_at_its_limit_holds_the_children_back_that_it_is_in() -> None:
    slow = {"slow.example": Ceiling(name="slow", per_second=1)}
    given = {"fast.example": 9000, "slow.example": 1000}
    relays = [Ceiling(name="relay")]
    alone = forecast(given, fleet=FLEET, relays=relays, domains=slow)
    in_children = forecast(given, fleet=FLEET, relays=relays, domains=slow, in_hand=2000)
    assert in_children.seconds == pytest.approx(alone.seconds, rel=0.01) == pytest.approx(1000, rel=0.01)
    assert alone.domains[0].seconds == pytest.approx(9, abs=0.6)
    # The last child of 2,000 is begun when 200 messages of the slow domain are left.
    assert in_children.domains[0].seconds == pytest.approx(800, rel=0.02)


@pytest.mark.parametrize("total", [1, 99, 2000, 12_345, 100_000, 1_000_000])
def test_children_are_counted_about_right(total: int) -> None:
    parameters = MailcasterParameters(name="m1")
    sizes, left = [], total
    while left:
        sizes.append(child_size(left, total, not sizes, parameters))
        left -= sizes[-1]
    assert total / mean_child_size(total, parameters) == pytest.approx(len(sizes), rel=0.05, abs=1)


@pytest.mark.rule("6.7")
def test_what_is_used_of_a_window_is_waited_for() -> None:
    used = {DAY: [(3600.0, 400.0), (7200.0, 600.0)]}

    def through(messages: int, ceiling: Ceiling) -> float | None:
        return forecast({"example.org": messages}, fleet=FLEET, relays=[ceiling], domains={}).seconds

    quota = Ceiling(name="quota", quotas=((1000, DAY),), used=used)
    ramp = Ceiling(name="ramp", ramp=lambda seconds: 1000.0, used=used)
    for ceiling in (quota, ramp):
        assert through(400, ceiling) == pytest.approx(3600, rel=0.01)
        assert through(1000, ceiling) == pytest.approx(7200, rel=0.01)
        assert through(1001, ceiling) == pytest.approx(DAY + 3600, rel=0.01)
    # In steps that are too long to see a day.
    assert through(100_000, quota) == pytest.approx(99 * DAY + 7200, rel=0.02)
    half = Ceiling(name="half", quotas=((1000, DAY),), used={DAY: [(3600.0, 400.0)]})
    assert through(600, half) == pytest.approx(0.6, rel=0.1)
    assert through(601, half) == pytest.approx(3600, rel=0.01)

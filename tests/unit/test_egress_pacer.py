"""The pacer's arithmetic, with timers as late as they like to be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.egress.pacer import Pacer


def grants(rate: float, lateness: list[float], wishes: list[float]) -> list[float]:
    """When messages start that are wished for after these pauses, each timer being this late."""
    pacer, now, found = Pacer(rate), 100.0, []
    for late, pause in zip(lateness, wishes, strict=True):
        now = max(now + pause, pacer.earliest() + late)
        pacer.grant(now)
        found.append(now)
    return found


@pytest.mark.rule("6.7")
@given(
    st.one_of(st.integers(1, 60), st.floats(0.2, 60)),
    st.lists(
        st.tuples(st.floats(0, 0.3), st.one_of(st.just(0.0), st.floats(0, 2))), min_size=1, max_size=300
    ),
)
def test_no_window_of_one_second_has_more_than_the_rate(
    rate: float, steps: list[tuple[float, float]]
) -> None:
    found = grants(rate, [late for late, _ in steps], [pause for _, pause in steps])
    window_s, most = (1.0, int(rate)) if rate >= 1 else (1.0 / rate, 1)
    for index, start in enumerate(found):
        assert sum(moment < start + window_s for moment in found[index:]) <= most


@pytest.mark.rule("6.7")
@pytest.mark.parametrize("rate", [0.5, 1, 10, 100, 1000])
def test_it_stays_within_five_percent_of_the_rate(rate: float) -> None:
    count = int(rate * 30)
    found = grants(rate, [0.001] * count, [0.0] * count)
    assert (count - 1) / (found[-1] - found[0]) >= 0.95 * rate


def test_a_rest_is_not_made_up_for_by_a_burst() -> None:
    pacer = Pacer(10)
    pacer.grant(0.0)
    pacer.grant(100.0)
    assert pacer.earliest() > 100.05

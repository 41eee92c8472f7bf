"""Connections of a relay among those who send: fair, and never more together than the relay's limit (spec 6.7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.egress.connection_shares import entitled, fair_shares

pytestmark = pytest.mark.rule("6.7")

HOLDERS = ("a", "b", "c", "d")
wishes = st.dictionaries(st.sampled_from(HOLDERS), st.integers(0, 30), min_size=1)


@given(st.integers(1, 40), wishes)
def test_shares_are_fair_and_use_all_there_is(most: int, wanted: dict[str, int]) -> None:
    shares = fair_shares(most, wanted)
    assert sum(shares.values()) == min(most, sum(wanted.values()))
    for holder, share in shares.items():
        assert 0 <= share <= wanted[holder]
        if share < wanted[holder]:
            assert share >= max(shares.values()) - 1, (
                "whoever gets less than he wants gets as much as anybody"
            )


def test_what_the_modest_leave_goes_to_the_others() -> None:
    assert fair_shares(20, {"a": 20, "b": 2, "c": 20}) == {"a": 9, "b": 2, "c": 9}
    assert fair_shares(3, {"a": 20, "b": 20, "c": 20, "d": 20}) == {"a": 0, "b": 1, "c": 1, "d": 1}


@given(
    st.integers(1, 12),
    st.lists(
        st.tuples(st.sampled_from(HOLDERS), st.integers(0, 15), st.floats(0, 1)), min_size=1, max_size=60
    ),
)
def test_together_they_never_hold_more(most: int, course: list[tuple[str, int, float]]) -> None:
    """Each comes when it likes, closes as many of its surplus connections as it gets to, and opens what it may."""
    wanted: dict[str, int] = {}
    noted: dict[str, int] = {}
    may: dict[str, int] = {}
    is_open: dict[str, int] = {}
    for holder, wish, diligence in course:
        surplus = max(0, is_open.get(holder, 0) - may.get(holder, 0))
        is_open[holder] = is_open.get(holder, 0) - round(surplus * diligence)
        wanted[holder] = wish
        noted[holder] = max(may.get(holder, 0), is_open[holder])
        may[holder] = entitled(most, wanted, noted, holder)
        noted[holder] = max(noted[holder], may[holder])
        is_open[holder] = max(is_open[holder], may[holder])
        assert sum(is_open.values()) <= most
        assert sum(noted.values()) <= most


def test_a_newcomer_gets_its_share_when_the_others_have_let_go() -> None:
    wanted = {"a": 10, "b": 10}
    assert entitled(10, wanted, {"a": 10, "b": 0}, "b") == 0
    assert entitled(10, wanted, {"a": 10, "b": 0}, "a") == 5
    assert entitled(10, wanted, {"a": 5, "b": 0}, "b") == 5

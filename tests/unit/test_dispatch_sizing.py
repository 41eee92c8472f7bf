"""How much of a parent a mailcaster takes at once (spec 4.4)."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_orchestration.dispatch.sizing import child_size
from mail_orchestration.kernel.fleet_settings import MailcasterParameters

_SIZES = st.integers(1, 20_000)


@st.composite
def mailcasters(draw: st.DrawFn) -> MailcasterParameters:
    smallest = draw(st.integers(1, 20_000))
    return MailcasterParameters(
        name="any",
        min_job_size=smallest,
        max_job_size=draw(st.integers(smallest + 1, 40_000)),
        percentage_job_size=draw(st.floats(0.01, 100)),
    )


def _of(**parameters: object) -> MailcasterParameters:
    return MailcasterParameters.model_validate({"name": "one", **parameters})


@pytest.mark.rule("4.4")
@pytest.mark.parametrize(
    ("remaining", "total", "untouched", "parameters", "size"),
    [
        pytest.param(2112, 2112, True, {}, 2112, id="a whole within min and max is one child"),
        pytest.param(2000, 2000, True, {}, 2000, id="min itself is within"),
        pytest.param(10_000, 10_000, True, {}, 10_000, id="max itself is within"),
        pytest.param(10_001, 10_001, True, {}, 2000, id="above max it is divided"),
        pytest.param(1999, 1999, True, {}, 1999, id="below min the tail rule takes all"),
        pytest.param(100_000, 100_000, True, {}, 3000, id="3 % of 100,000"),
        pytest.param(100_000, 100_000, True, {"max_job_size": 2500}, 2500, id="lowered to max"),
        pytest.param(100_000, 100_000, True, {"min_job_size": 5000}, 5000, id="raised to min"),
        pytest.param(9000, 11_000, False, {}, 2000, id="touched: the remainder is no whole"),
        pytest.param(600, 11_000, False, {}, 600, id="the tail"),
        pytest.param(97_000, 100_000, False, {}, 2910, id="the percentage is of what remains"),
        pytest.param(
            10_000,
            20_000,
            False,
            {"min_job_size": 1, "max_job_size": 9000, "percentage_job_size": 0.29},
            29,
            id="0.29 % of 10,000 is 29, whatever binary floating point makes of it",
        ),
        pytest.param(
            50,
            100,
            False,
            {"min_job_size": 1, "percentage_job_size": 0.5},
            1,
            id="less than one message is one",
        ),
    ],
)
def test_size_of_a_child(
    remaining: int, total: int, untouched: bool, parameters: dict[str, object], size: int
) -> None:
    assert child_size(remaining, total, untouched, _of(**parameters)) == size


@pytest.mark.rule("4.4")
@settings(deadline=None)
@given(total=_SIZES, parameters=mailcasters())
def test_every_message_is_in_exactly_one_child_and_the_sizes_are_within_bounds(
    total: int, parameters: MailcasterParameters
) -> None:
    remaining, sizes = total, list[int]()
    while remaining:
        sizes.append(child_size(remaining, total, remaining == total, parameters))
        assert 1 <= sizes[-1] <= remaining
        remaining -= sizes[-1]
    assert sum(sizes) == total
    assert all(parameters.min_job_size <= size <= parameters.max_job_size for size in sizes[:-1])
    assert sizes[-1] <= parameters.max_job_size
    assert len(sizes) <= -(-total // parameters.min_job_size)


@pytest.mark.rule("4.4")
@given(total=_SIZES, taken=_SIZES, parameters=mailcasters())
def test_a_touched_parent_gives_the_clamped_percentage(
    total: int, taken: int, parameters: MailcasterParameters
) -> None:
    remaining = max(1, total - taken)
    share = int(Fraction(str(parameters.percentage_job_size)) * remaining / 100)
    clamped = min(max(share, parameters.min_job_size), parameters.max_job_size)
    assert child_size(remaining, total, False, parameters) == min(clamped, remaining)


@pytest.mark.parametrize(("remaining", "total"), [(0, 10), (-1, 10), (11, 10)])
def test_nonsense_is_refused(remaining: int, total: int) -> None:
    with pytest.raises(ValueError, match="cannot remain"):
        child_size(remaining, total, False, _of())

"""How long messages will take, on paper: rates, quotas, domains, relays beside each other, the send window."""

from __future__ import annotations

import pytest

from mail_orchestration.dispatch.flow import Ceiling
from mail_orchestration.dispatch.forecasting import Forecast, forecast

FLEET = Ceiling(name="the fleet", per_second=1000)
RELAY = Ceiling(name="relay one", per_second=100)


def of(messages: dict[str, int], *, relays: tuple[Ceiling, ...] = (RELAY,), **more: object) -> Forecast:
    given = {"fleet": FLEET, "relays": relays, "domains": {}, **more}
    return forecast(messages, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("relays", "seconds", "limited_by"),
    [
        pytest.param((RELAY,), 100, "relay one", id="one relay's rate"),
        pytest.param(
            (RELAY, Ceiling(name="relay two", per_second=300)), 25, "relay one and relay two", id="two add up"
        ),
        pytest.param((Ceiling(name="unlimited"),), 10, "the fleet", id="the fleet's own speed"),
        pytest.param(
            # 1,000 at once (in 1 s), then 1,000 in each hour that follows.
            (Ceiling(name="quota", quotas=((1000, 3600.0),)),),
            9 * 3600 + 1,
            "quota",
            id="an hourly quota allows a burst, then waits",
        ),
    ],
)
def test_total_time(relays: tuple[Ceiling, ...], seconds: float, limited_by: str) -> None:
    found = of({"example.org": 6000, "example.com": 4000}, relays=relays)
    assert found.messages == 10_000
    assert found.seconds == pytest.approx(seconds, rel=0.01)
    assert found.limited_by == limited_by


def test_a_slow_domain_is_through_last_and_the_others_do_not_wait_for_it() -> None:
    slow = Ceiling(name="domain slow.example", per_second=2)
    found = of({"fast.example": 9000, "slow.example": 1000}, domains={"slow.example": slow})
    fast, last = found.domains
    assert (fast.domain, last.domain) == ("fast.example", "slow.example")
    assert fast.seconds == pytest.approx(9000 / 98, rel=0.02)
    assert last.seconds == found.seconds == pytest.approx(500, rel=0.01)
    assert found.limited_by == "domain slow.example"


def test_nothing_goes_outside_the_send_window() -> None:
    found = of({"example.org": 10_000}, closed_for=lambda seconds: max(0.0, 400 - seconds))
    assert found.seconds == pytest.approx(500, rel=0.01)
    assert found.limited_by == "send window"
    assert all(sent == 0 for seconds, sent in found.curve if seconds < 400)


def test_the_curve_only_rises_and_ends_with_all() -> None:
    found = of({"example.org": 12_345})
    assert len(found.curve) <= 100
    assert list(found.curve) == sorted(found.curve)
    assert found.curve[-1] == (found.seconds, 12_345)
    assert found.curve[len(found.curve) // 2][1] == pytest.approx(12_345 / 2, rel=0.05)


def test_each_domain_has_a_curve_of_its_own() -> None:
    slow = Ceiling(name="domain slow.example", per_second=2)
    found = of({"fast.example": 9000, "slow.example": 1000, "few.example": 3}, domains={"slow.example": slow})
    for each in found.domains:
        assert len(each.curve) <= 100
        assert list(each.curve) == sorted(each.curve)
        assert [sent for _, sent in each.curve] == sorted(sent for _, sent in each.curve)
        assert each.curve[-1] == (each.seconds, each.messages)
        assert each.reached(1.0) == each.seconds
    fast, last, _ = found.domains
    assert fast.reached(0.5) == pytest.approx(4500 / 98, rel=0.05)
    assert last.reached(0.25) == pytest.approx(125, rel=0.05)
    assert last.reached(0.75) == pytest.approx(375, rel=0.05)
    assert found.reached(0.75) == pytest.approx(7500 / 100, rel=0.05)


def test_a_domain_that_gets_nowhere_reaches_nothing() -> None:
    found = of(
        {"open.example": 1000, "shut.example": 1000},
        domains={"shut.example": Ceiling(name="domain shut.example", per_second=1e-5)},
    )
    shut = found.domains[1]
    assert found.reached(0.5) is not None
    assert shut.reached(0.75) is None
    assert found.reached(1.0) is None


def test_what_never_ends_says_so_and_nothing_takes_no_time() -> None:
    assert of({"example.org": 10}, closed_for=lambda seconds: float("inf")).seconds is None
    assert of({}).seconds == 0.0

"""A release on paper, of any size: no faster than any limit, nobody lost, and everything slower that should be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_orchestration.dispatch.flow import Ceiling
from mail_orchestration.dispatch.forecasting import forecast
from tests.unit.simulated import INSTANT, finish_of, simulated

shares = st.floats(0, 0.3)
failures = st.fixed_dictionaries({"rejected": shares, "deferred": shares, "deferred_again": shares})
limits = st.fixed_dictionaries(
    {}, optional={"per_second": st.integers(5, 500), "per_hour": st.integers(500, 10**6)}
)
sizes = st.integers(1, 200_000)
few = settings(max_examples=15, deadline=None)


def relay(**more: Any) -> list[dict[str, Any]]:
    return [{"name": "one", "connections": 1000, **more}]


@few
@given(recipients=sizes, failures=failures, limits=limits)
def test_every_message_has_one_end_and_none_before_the_limits_allow(
    recipients: int, failures: dict[str, float], limits: dict[str, int]
) -> None:
    found = simulated(recipients, failures=failures, relays=relay(limits=limits))
    assert found.accepted + found.rejected + found.dead_letters + found.unfinished == recipients
    for point in found.curve:
        ended = point.accepted + point.rejected + point.dead
        assert ended + point.unsent + point.deferred == recipients
    assert min(found.accepted, found.rejected, found.dead_letters, found.unfinished) >= 0
    finish_s = finish_of(found)
    # What has less than half a message left is over.
    assert finish_s >= (recipients - 1) / 1000 * 0.99
    if per_second := limits.get("per_second"):
        assert finish_s >= (recipients - 1) / per_second * 0.99
    if per_hour := limits.get("per_hour"):
        assert finish_s >= ((recipients - 1) // per_hour) * 3600 * 0.99
    moments = [found.first_message_s, found.half_s, found.ninety_percent_s, found.ninety_nine_percent_s]
    assert [*moments[1:], found.finish_s] == sorted([*moments[1:], found.finish_s])


@few
@given(recipients=sizes, failures=failures, limits=limits, count=st.integers(1, 20))
def test_more_mailcasters_are_never_slower(
    recipients: int, failures: dict[str, float], limits: dict[str, int], count: int
) -> None:
    one, more = (
        simulated(
            recipients,
            failures=failures,
            relays=relay(limits=limits),
            mailcasters=[{"name": "m1", "connections": 20, "count": number}],
        )
        for number in (count, count + 1)
    )
    # To a step of the reckoning.
    assert finish_of(more) <= finish_of(one) * 1.005 + 0.1


@few
@given(recipients=sizes, more=st.integers(1, 100_000), failures=failures, limits=limits)
def test_more_recipients_are_never_through_sooner(
    recipients: int, more: int, failures: dict[str, float], limits: dict[str, int]
) -> None:
    small, large = (
        simulated(
            size,
            failures=failures,
            relays=relay(limits=limits),
            mailcasters=[{"name": "m1", "connections": 20, "min_job_size": 1, "max_job_size": 2}],
        )
        for size in (recipients, recipients + more)
    )
    assert finish_of(large) >= finish_of(small) * 0.995 - 0.1
    assert large.stored_octets > small.stored_octets


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({}, id="no limit"),
        pytest.param(
            {"relays": relay(limits={"per_second": 5000, "per_hour": 5_000_000})}, id="second and hour"
        ),
        pytest.param(
            {
                "relays": relay(ramp={"messages_on_first_day": 1000}),
                "send_window": {"spans": [{"from": "08:00", "to": "20:00", "days": ["mon", "tue"]}]},
                "failures": {"deferred": 0.3, "deferred_again": 0.3},
                "mix": [{"domain": f"d{number}.example", "share": 0.01} for number in range(100)],
            },
            id="a ramp, a window, failures, a hundred domains",
        ),
    ],
)
def test_a_billion_takes_no_longer_to_reckon_than_a_thousand(sections: dict[str, Any]) -> None:
    fleet = [{"name": "m", "count": 100, "connections": 100}]
    sections = {"relays": relay(connections=10_000), **sections}
    found = simulated(10**9, mailcasters=fleet, hosts={"count": 50, "cores": 4}, **sections)
    assert found.accepted + found.rejected + found.dead_letters + found.unfinished == 10**9
    assert found.steps < 30_000
    assert len(found.curve) <= 402


@pytest.mark.parametrize(
    ("messages", "limits"),
    [({"*": 10_000}, {}), ({"*": 10_000}, {"per_second": 100}), ({"*": 10_000}, {"per_hour": 1000})],
)
def test_without_failures_it_is_the_forecast(messages: dict[str, int], limits: dict[str, int]) -> None:
    found = simulated(10_000, relays=relay(limits=limits))
    quotas = [(limits["per_hour"], 3600.0)] if "per_hour" in limits else []
    one = Ceiling(name="relay one", per_second=limits.get("per_second", 1e9) / 1.038, quotas=quotas)
    foreseen = forecast(messages, fleet=Ceiling(name="fleet", per_second=1000), relays=[one], domains={})
    assert found.finish_s == pytest.approx(foreseen.seconds, rel=0.01)


def test_deferred_ones_come_again_until_the_most_attempts_are_made() -> None:
    policy = {"max_attempts": 3, "retry_after_minutes": 10}
    failures = {"deferred": 0.1, "deferred_again": 0.5}
    found = simulated(100_000, failures=failures, dispatcher=policy)
    # 100 s for first attempts; the last of their deferred ones twice more, each after ten minutes.
    assert found.finish_s == pytest.approx(100 + 2 * 600, abs=15)
    assert found.half_s == pytest.approx(50 / 0.9, rel=0.02)
    assert found.dead_letters == pytest.approx(100_000 * 0.1 * 0.5 * 0.5, abs=1)
    assert found.phases[-1].name == "retries"
    assert found.phases[-1].limited_by == "retry_after_minutes"
    assert max(point.deferred for point in found.curve) == pytest.approx(10_000, rel=0.02)


def test_nothing_goes_outside_the_send_window_by_the_clocks_of_its_zone() -> None:
    window = {"spans": [{"from": "16:00", "to": "17:00"}], "time_zone": "Europe/Berlin"}
    found = simulated(5_400_000, send_window=window)
    # 16:00 in Berlin is 14:00 UTC; an hour takes 3.6 million, the rest goes on the next day.
    assert found.first_message_s == pytest.approx(7200, abs=1)
    assert found.finish_s == pytest.approx(26 * 3600 + 1800, rel=0.005)
    assert found.phases[-1].limited_by == "send window"


def test_a_domain_at_its_limit_is_named_and_holds_the_children_back() -> None:
    sections: dict[str, Any] = {
        "mix": [{"domain": "slow.example", "share": 0.1}, {"domain": "*", "share": 0.9}],
        "domains": [{"name": "slow.example", "limits": {"per_second": 10}}],
    }
    found = simulated(100_000, **sections)
    assert found.finish_s == pytest.approx(10_000 / (10 / 1.038), rel=0.01)
    assert found.phases[-1].limited_by == "domain slow.example"
    assert found.half_s is not None
    # Half of all are not through before nearly half of the slow ones are.
    assert found.half_s > 0.4 * finish_of(found)


@pytest.mark.parametrize(
    ("sections", "seconds", "limited_by"),
    [
        pytest.param({}, 100, "the mailcasters", id="a mailcaster's processor"),
        pytest.param(
            {"mailcasters": [{"name": "m1", "connections": 5}]}, 200, "the mailcasters", id="its own"
        ),
        pytest.param({"relays": relay() + relay(name="two")}, 100, "the mailcasters", id="two relays"),
        pytest.param(
            {"relays": [{"name": "one", "connections": 4}]}, 250, "connections to relay one", id="connections"
        ),
        pytest.param(
            {"relays": relay(reply_milliseconds=100)}, 500, "connections to relay one", id="a slow relay"
        ),
        pytest.param(
            {
                "mailcasters": [{"name": "m", "count": 100, "max_job_size": 2001}],
                "hosts": {"count": 1, "cores": 1},
                "rates": {**INSTANT, "mailcaster_cpu_microseconds": 400, "database_cpu_microseconds": 100},
            },
            50,
            "the hosts' processors",
            id="the hosts",
        ),
        pytest.param(
            {"mailcasters": [{"name": "m1", "count": 5, "max_job_size": 1_000_000}]},
            100,
            "the mailcasters",
            id="one child for five mailcasters",
        ),
    ],
)
def test_the_narrowest_place_is_named(sections: dict[str, Any], seconds: float, limited_by: str) -> None:
    found = simulated(100_000, **sections)
    assert found.finish_s == pytest.approx(seconds, rel=0.02)
    assert found.phases[-1].limited_by == limited_by


def test_a_mailcaster_of_small_mail_jobs_leaves_large_ones_undone() -> None:
    only_small = [{"name": "m1", "small_job_only": True, "min_job_size": 1, "max_job_size": 99}]
    assert simulated(99, mailcasters=only_small).finish_s is not None
    found = simulated(100, mailcasters=only_small)
    assert (found.finish_s, found.unfinished) == (None, 100)
    assert found.phases[-1].limited_by == "no mailcaster takes mail jobs of this size"


def test_costs_are_of_hosts_relays_and_storage() -> None:
    prices = {"host_hour": 3.6, "per_thousand_messages": 0.5, "gigabyte_month": 2, "months_kept": 3}
    octets = {"contact_octets": 100, "recipient_octets": 200, "message_octets": 300, "result_octets": 400}
    found = simulated(
        1_000_000,
        prices=prices,
        hosts={"count": 2, "cores": 8, "database_cores": 4},
        rates={**INSTANT, **octets},
        relays=relay(price_per_thousand=0.1),
        failures={"rejected": 0.01},
    )
    assert found.stored_octets == 10**9
    assert found.costs.hosts == pytest.approx(3 * 1000 / 3600 * 3.6, rel=0.01)
    assert found.costs.relays == pytest.approx(990 * 0.1)
    assert found.costs.storage == pytest.approx(6)
    assert found.costs.per_thousand == pytest.approx(found.costs.total / 1000)


@few
@given(tolerated=st.floats(5, 900))
def test_a_relay_that_asks_for_less_gets_most_of_what_it_tolerates(tolerated: float) -> None:
    found = simulated(100_000, relays=relay(tolerates_per_second=tolerated))
    rate = 100_000 / finish_of(found)
    assert 0.4 * tolerated < rate <= 1.001 * tolerated
    assert found.phases[-1].limited_by == "relay one, which asks for less"


def test_steps_before_the_queue_take_what_was_measured() -> None:
    rates = {
        **INSTANT,
        "import_seconds": 1,
        "import_microseconds": 50,
        "dedup_microseconds": 20,
        "assembly_serial_microseconds": 100,
        "assembly_microseconds": 400,
        "start_seconds": 2,
    }
    found = simulated(90_000, rates=rates, audience={"duplicates": 0.1})
    seconds = {phase.name: phase.seconds for phase in found.phases}
    assert seconds == pytest.approx(
        {"import": 1 + 5, "dedup": 2, "assembly": 90_000 * 300e-6, "start": 2, "delivery": 90}, rel=0.01
    )
    assert found.first_message_s == pytest.approx(6 + 2 + 27 + 2, abs=0.1)
    assert "import" not in [each.name for each in simulated(9, audience={"imported": False}).phases]

"""Where days begin and end, in every time zone there is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.days import day_bounds

_ZONES = st.sampled_from(sorted(available_timezones() - {"localtime"})).map(ZoneInfo)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("UTC", date(2026, 3, 29), 24),
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("America/Sao_Paulo", date(2018, 11, 4), 23),  # midnight is skipped
        ("America/Havana", date(2025, 11, 2), 25),  # midnight comes twice
        ("Pacific/Apia", date(2011, 12, 30), 0),  # the day was skipped
    ],
)
def test_a_day_is_as_long_as_the_clocks_make_it(zone: str, day: date, hours: int) -> None:
    starts_at, ends_at = day_bounds(day, ZoneInfo(zone))
    assert ends_at - starts_at == timedelta(hours=hours)


@given(
    moment=st.datetimes(datetime(1990, 1, 2), datetime(2037, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    zone=_ZONES,
)
def test_every_moment_is_in_exactly_the_day_that_the_clock_shows(moment: datetime, zone: ZoneInfo) -> None:
    day = day_of(moment, zone)
    starts_at, ends_at = day_bounds(day, zone)
    assert starts_at <= moment < ends_at
    assert day_bounds(day + timedelta(days=1), zone)[0] == ends_at

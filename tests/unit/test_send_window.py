"""The send window: which moments are in it, and when it opens next, whatever the clocks do (spec 6.7)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mail_orchestration.dispatch.send_window import SendWindow, send_window
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.sending_settings import DAYS, SpanSettings
from mail_orchestration.kernel.settings import load_settings

ZONES = ("UTC", "Europe/Madrid", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
MADRID = ZoneInfo("Europe/Madrid")


def window(*spans: tuple[str, str, str], zone: ZoneInfo = MADRID) -> SendWindow:
    """Of spans such as ("mon tue", "08:00", "20:00")."""
    parts = tuple(
        SpanSettings.model_validate({"days": days.split(), "from": begins, "to": ends})
        for days, begins, ends in spans
    )
    return SendWindow(spans=parts, zone=zone, single_mails=False)


def wall(text: str, *, fold: int = 0) -> datetime:
    """A moment by Madrid's clocks."""
    return datetime.fromisoformat(text).replace(tzinfo=MADRID, fold=fold)


@st.composite
def windows(draw: st.DrawFn) -> SendWindow:
    def time_of(minute: int) -> str:
        return f"{minute // 60:02}:{minute % 60:02}"

    spans = []
    for _ in range(draw(st.integers(1, 3))):
        begins, ends = draw(st.integers(0, 1439)), draw(st.integers(1, 1440))
        assume(begins != ends)
        days = " ".join(draw(st.sets(st.sampled_from(DAYS), min_size=1)))
        spans.append((days, time_of(begins), time_of(ends)))
    return window(*spans, zone=ZoneInfo(draw(st.sampled_from(ZONES))))


moments = st.datetimes(datetime(2024, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
# The clocks of the zones above change in these weeks; elsewhere a day is like another.
about_clock_changes = st.builds(
    lambda day, minutes: day + timedelta(minutes=minutes),
    st.sampled_from(
        [datetime(2026, *day, tzinfo=UTC) for day in ((3, 8), (3, 29), (4, 4), (10, 3), (10, 25), (11, 1))]
    ),
    st.integers(-1440, 2880),
)


@pytest.mark.rule("6.7")
@given(windows(), moments | about_clock_changes)
def test_it_opens_when_it_says_and_not_before(window: SendWindow, now: datetime) -> None:
    seconds = window.closed_for(now)
    assert (seconds == 0) == window.is_open_at(now) == (not window.why_closed(now))
    opens = now + timedelta(seconds=seconds)
    assert window.is_open_at(opens)
    if seconds:
        assert not window.is_open_at(opens - timedelta(microseconds=1))
        for minutes in range(0, int(seconds // 60), 17):
            assert not window.is_open_at(now + timedelta(minutes=minutes))


@pytest.mark.rule("6.7")
@given(windows(), moments | about_clock_changes)
def test_it_is_open_when_the_clock_on_the_wall_is_in_a_span(window: SendWindow, now: datetime) -> None:
    local = now.astimezone(window.zone).replace(tzinfo=None)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    expected = False
    for days_ago in (0, 1):
        begins_on = midnight - timedelta(days=days_ago)
        for span in window.spans:
            if DAYS[begins_on.weekday()] in span.days:
                lasts = span.to - span.from_ + (1440 if span.to < span.from_ else 0)
                begins = begins_on + timedelta(minutes=span.from_)
                expected |= begins <= local < begins + timedelta(minutes=lasts)
    assert window.is_open_at(now) == expected


@pytest.mark.rule("6.7")
def test_a_span_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    nights = window(("fri", "22:00", "06:00"))
    assert nights.is_open_at(wall("2026-11-20 23:00"))
    assert nights.is_open_at(wall("2026-11-21 05:59"))
    assert not nights.is_open_at(wall("2026-11-21 06:00"))
    assert not nights.is_open_at(wall("2026-11-20 05:00"))
    assert nights.closed_for(wall("2026-11-21 06:00")) == 6 * 86400 + 16 * 3600
    evenings = window(("sun", "22:00", "00:00"))
    assert evenings.is_open_at(wall("2026-11-22 23:59"))
    assert not evenings.is_open_at(wall("2026-11-23 00:00"))


@pytest.mark.rule("6.7")
def test_clocks_that_change_are_followed() -> None:
    # In Madrid 02:00 became 03:00 on 29 March 2026, and 03:00 became 02:00 on 25 October.
    early = window(("sun", "02:30", "05:00"))
    assert early.closed_for(wall("2026-03-29 01:00")) == 3600, "the clock leaves 02:30 out: it opens at 03:00"
    office = window((" ".join(DAYS), "08:00", "20:00"))
    assert office.closed_for(wall("2026-03-28 20:00")) == 11 * 3600
    assert office.closed_for(wall("2026-10-24 20:00")) == 13 * 3600
    brief = window(("sun", "01:00", "02:30"))
    assert brief.closed_for(wall("2026-10-25 02:30")) == 1800, "the clock shows 02:00 once more"
    assert brief.is_open_at(wall("2026-10-25 02:29", fold=1))
    assert not brief.is_open_at(wall("2026-10-25 02:30", fold=1))


@pytest.mark.rule("6.7")
def test_without_one_it_is_always_open_and_single_mails_are_exempt_from_one(tmp_path: Path) -> None:
    path = tmp_path / "mail_orchestration.yaml"
    night = datetime(2026, 11, 22, 3, tzinfo=UTC)
    path.write_text("installation: main\n", encoding="utf-8")
    assert send_window(load_settings(path)).closed_for(night) == 0

    spans = "  spans:\n    - {from: 08:00, to: 20:00}\n"
    path.write_text(f"time_zone: Asia/Kathmandu\nsend_window:\n{spans}", encoding="utf-8")
    found = send_window(load_settings(path))
    assert found.is_open_at(night), "it is 08:45 in Kathmandu"
    path.write_text(f"time_zone: Asia/Kathmandu\nsend_window:\n  time_zone: UTC\n{spans}", encoding="utf-8")
    found = send_window(load_settings(path))
    assert not found.is_open_at(night)
    assert found.is_open_for_single_mails_at(night)
    assert found.why_closed(night) == "outside the send window, which opens 2026-11-22 08:00 UTC"
    path.write_text(f"send_window:\n  single_mails: true\n{spans}", encoding="utf-8")
    assert not send_window(load_settings(path)).is_open_for_single_mails_at(night)


@pytest.mark.rule("6.7")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("spans: []", r":2: send_window\.spans: "),
        ("time_zone: UTC", r":1: send_window\.spans: is missing"),
        ("spans: [{days: [], from: 08:00, to: 20:00}]", r"spans\[0\]\.days: "),
        ("spans: [{days: [mon, tue, mon], from: 08:00, to: 20:00}]", r"spans\[0\]\.days: names mon twice"),
        ("spans: [{days: [monday], from: 08:00, to: 20:00}]", r"spans\[0\]\.days\[0\]: "),
        ("spans: [{from: 08:00, to: 08:00}]", r"spans\[0\]: from and to are the same"),
        ("spans: [{from: 24:00, to: 08:00}]", r"spans\[0\]: from: no day begins at 24:00"),
        ("spans: [{from: 08:00, to: 24:01}]", r"spans\[0\]\.to: must be a time from 00:00 to 24:00"),
        ("spans: [{from: 08:60, to: 20:00}]", r"spans\[0\]\.from: must be a time"),
        ("spans: [{from: 8, to: 20:00}]", r"spans\[0\]\.from: must be a time"),
        ("spans: [{to: 20:00}]", r"spans\[0\]\.from: is missing"),
        ("{time_zone: Mars/Olympus, spans: [{from: 08:00, to: 20:00}]}", r"time_zone: there is no time zone"),
    ],
)
def test_one_that_says_nothing_or_contradicts_itself_is_refused(
    given: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "mail_orchestration.yaml"
    path.write_text(f"send_window:\n  {given}\n", encoding="utf-8")
    with pytest.raises(BadSettings, match=rf"mail_orchestration\.yaml{told}" if told[0] == ":" else told):
        load_settings(path)

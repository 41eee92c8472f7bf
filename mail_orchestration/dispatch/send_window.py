"""The send window: on which days and hours anything is sent (spec 6.7). Pure policy over the clock on a wall.

Summer time needs no care here: an hour that the wall clock leaves out is in no span, one that it shows twice is in its
span twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from mail_orchestration.kernel.loose_mail_states import LooseMailKind
from mail_orchestration.kernel.sending_settings import DAYS, SendWindowSettings, SpanSettings
from mail_orchestration.kernel.settings import Settings

_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendWindow:
    """The spans of a week in which mail goes out; without any it is always open."""

    spans: tuple[SpanSettings, ...]
    zone: ZoneInfo
    single_mails: bool
    """Whether single mails wait for it too; retries and bursts always do."""

    def is_open_at(self, now: datetime) -> bool:
        """Whether mail may be sent at a moment (with a time zone)."""
        wall = now.astimezone(self.zone)
        day, minute = wall.weekday(), wall.hour * 60 + wall.minute
        return not self.spans or any(_contains(span, day, minute) for span in self.spans)

    def is_open_for_single_mails_at(self, now: datetime) -> bool:
        """Whether single mails may be sent at a moment: at any, unless the settings say otherwise."""
        return not self.single_mails or self.is_open_at(now)

    def kinds_at(self, kinds: Iterable[LooseMailKind], now: datetime) -> list[LooseMailKind]:
        """Those loose mails that may be sent at a moment; retries and bursts wait for the window as mail jobs do."""
        is_open, is_open_for_singles = self.is_open_at(now), self.is_open_for_single_mails_at(now)
        return [kind for kind in kinds if (is_open_for_singles if kind is LooseMailKind.SINGLE else is_open)]

    def closed_for(self, now: datetime) -> float:
        """Seconds from `now` until it opens; 0 when it is open."""
        moment = now.astimezone(UTC)
        # Minute by minute: no more is needed to be right about every clock change, and a week takes some milliseconds.
        while not self.is_open_at(moment):
            moment = moment.replace(second=0, microsecond=0) + _MINUTE
        return (moment - now).total_seconds()

    def why_closed(self, now: datetime) -> str:
        """That it is closed, and when it opens, in words; "" when it is open."""
        if not (seconds := self.closed_for(now)):
            return ""
        opens = (now + timedelta(seconds=seconds)).astimezone(self.zone)
        return f"outside the send window, which opens {opens:%Y-%m-%d %H:%M} {self.zone.key}"


def send_window(settings: Settings) -> SendWindow:
    """The installation's."""
    return window_of(settings.send_window, settings.zone)


def window_of(given: SendWindowSettings | None, zone: ZoneInfo) -> SendWindow:
    """The window that a section of the settings describes; `zone` is the installation's."""
    if given is None:
        return SendWindow(spans=(), zone=zone, single_mails=False)
    zone = ZoneInfo(given.time_zone) if given.time_zone else zone
    return SendWindow(spans=given.spans, zone=zone, single_mails=given.single_mails)


def _contains(span: SpanSettings, day: int, minute: int) -> bool:
    begins_today, began_yesterday = DAYS[day] in span.days, DAYS[day - 1] in span.days
    if span.from_ < span.to:
        return begins_today and span.from_ <= minute < span.to
    return (begins_today and minute >= span.from_) or (began_yesterday and minute < span.to)

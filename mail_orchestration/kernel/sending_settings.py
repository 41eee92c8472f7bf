"""Sections of the settings file that say when anything is sent (spec 6.7)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from mail_orchestration.kernel.settings_section import Section, TimeZoneName

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
MINUTES_OF_A_DAY = 24 * 60


def _minute_of_day(value: Any) -> int:
    found = re.fullmatch(r"(\d\d):(\d\d)", value) if isinstance(value, str) else None
    minute = int(found[1]) * 60 + int(found[2]) if found else -1
    if found is None or int(found[2]) > 59 or not 0 <= minute <= MINUTES_OF_A_DAY:
        raise ValueError("must be a time from 00:00 to 24:00, such as 08:30")
    return minute


def _written(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


MinuteOfDay = Annotated[
    int, BeforeValidator(_minute_of_day), PlainSerializer(_written, return_type=str, when_used="json")
]
"""Written as hours and minutes, 08:30; 24:00 is the day's end."""


class SpanSettings(Section):
    """A part of the week: on some days from one time until another, or into the next day if that is the earlier one."""

    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    """The days on which it begins."""
    from_: MinuteOfDay = Field(alias="from")
    to: MinuteOfDay

    @field_validator("days")
    @classmethod
    def _each_day_once(cls, value: tuple[Day, ...]) -> tuple[Day, ...]:
        if twice := sorted({day for day in value if value.count(day) > 1}):
            raise ValueError(f"names {', '.join(twice)} twice")
        return value

    @model_validator(mode="after")
    def _lasts(self) -> SpanSettings:
        if self.from_ == MINUTES_OF_A_DAY:
            raise ValueError("from: no day begins at 24:00")
        if self.from_ == self.to:
            raise ValueError("from and to are the same: a whole day is from 00:00 to 24:00")
        return self


class SendWindowSettings(Section):
    """When mail may be sent: in any of the spans, by the clock on the wall of that time zone."""

    spans: tuple[SpanSettings, ...] = Field(min_length=1)
    time_zone: TimeZoneName | None = None
    """None: the installation's."""
    single_mails: bool = False
    """Whether single mails wait for the window too."""

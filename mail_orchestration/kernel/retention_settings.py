"""The section `retention` of the settings: how long what was done is kept (spec 6.5, 6.6)."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, model_validator

from mail_orchestration.kernel.settings_section import Section


class RetentionSettings(Section):
    """How long what was done is kept (spec 6.5, 6.6)."""

    history_days: int = Field(default=7, ge=1, le=365)
    """The same content is not queued twice for an address within so many days."""
    messages_days: int = Field(default=90, ge=7)
    """The messages of releases and single mails: what exactly each recipient got."""
    results_days: int = Field(default=400, ge=7)
    """Recipients and results of releases."""
    delivery_log_days: int = Field(default=400, ge=7)
    """What became of mails that were sent one by one."""
    daily_log_days: int = Field(default=400, ge=91)
    """Mails by contact and day; the widest usual window of the frequency policy is 90 days (spec 8.1)."""
    records_days: int = Field(default=1100, ge=7)
    """Mail jobs and releases, without what they held."""
    dagster_days: int = Field(default=30, ge=7)
    """Runs, their events, and partition keys in Dagster's own books."""

    @property
    def history(self) -> timedelta:
        """`history_days` as a span of time."""
        return timedelta(days=self.history_days)

    @model_validator(mode="after")
    def _what_explains_goes_last(self) -> RetentionSettings:
        for shorter, longer in (
            ("messages_days", "results_days"),
            ("messages_days", "delivery_log_days"),
            ("history_days", "results_days"),
            ("results_days", "records_days"),
        ):
            if getattr(self, shorter) > getattr(self, longer):
                raise ValueError(
                    f"{shorter} ({getattr(self, shorter)}) must not be more than {longer} ({getattr(self, longer)}), "
                    "which it cannot do without"
                )
        return self

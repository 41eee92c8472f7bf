"""The sections `mailcasters` and `dispatcher` of the settings: who works, and what watches over the work."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mail_orchestration.kernel.settings_section import Name, Section


class MailcasterParameters(Section):
    """A configured worker (spec 4.2). Its type follows from these: see dispatch.mailcaster_type."""

    name: Name
    small_audience_threshold: int = Field(default=100, ge=1)
    small_job_only: bool = False
    large_job_only: bool = False
    min_job_size: int = Field(default=2000, ge=1)
    max_job_size: int = Field(default=10_000, ge=1)
    percentage_job_size: float = Field(default=3, gt=0, le=100)
    recovery_string_update_frequency: int = Field(default=100, ge=1)
    automatic_mail_job_recovery: bool = True
    job_recovery_expire_in_hours: float = Field(default=96, gt=0)
    connections: int = Field(default=20, ge=1, le=1000)
    relays: tuple[Name, ...] = ()
    """The relays it delivers to; none named: all of them."""
    installations: tuple[Name, ...] | Literal["all"] = ()
    """Those whose mail jobs it takes, in fair turns (spec 6.2); none named: its own installation alone."""

    def serves(self, installation: str) -> bool:
        """Whether it takes work of its own installation, which is this one."""
        return self.installations in ((), "all") or installation in self.installations

    @model_validator(mode="after")
    def _min_is_below_max(self) -> MailcasterParameters:
        if self.min_job_size >= self.max_job_size:
            raise ValueError(
                f"min_job_size ({self.min_job_size}) must be smaller than max_job_size ({self.max_job_size})"
            )
        return self


class DispatcherSettings(Section):
    """What decides at dedup, watches over the queue, and repeats attempts (spec 3.1, 5.2, 5.7, 6.3, 6.4)."""

    small_audience_threshold: int = Field(default=100, ge=1)
    heartbeat_seconds: float = Field(default=10, gt=0)
    hang_after_seconds: float = Field(default=7200, gt=0)
    relay_unreachable_after_seconds: float = Field(default=900, gt=0)
    max_attempts: int = Field(default=5, ge=1, le=100)
    retry_after_minutes: float = Field(default=30, gt=0)
    reservation_minutes: float = Field(default=30, gt=0)
    back_off_round_seconds: float = Field(default=10, gt=0)
    assembly_processes: int = Field(default=2, ge=1, le=64)
    accept_promoted_standby: bool = False
    """Whether a promoted standby goes on without the operator: for synchronous replication, which loses nothing."""

    @model_validator(mode="before")
    @classmethod
    def _beat_in_time(cls, given: Any) -> Any:
        """Whoever names only a short hang time gets heartbeats to go with it."""
        match given:
            case {"heartbeat_seconds": _}:
                return given
            case {"hang_after_seconds": int() | float() as hang_after_s} if 0 < hang_after_s < 40:
                return {**given, "heartbeat_seconds": hang_after_s / 4}
            case _:
                return given

    @model_validator(mode="after")
    def _who_lives_does_not_hang(self) -> DispatcherSettings:
        if self.hang_after_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"hang_after_seconds ({self.hang_after_seconds:g}) must be at least twice "
                f"heartbeat_seconds ({self.heartbeat_seconds:g}), or mail jobs hang between two heartbeats"
            )
        return self

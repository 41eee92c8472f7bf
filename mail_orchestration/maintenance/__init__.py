"""The maintenance story: what runs beside the mail, by schedule, and may be run at any time (spec 6.5, 8.2)."""

from mail_orchestration.maintenance.cleaning import (
    CleanSummary,
    clean_delivery_queue,
    close_days,
    frequency_summary,
)

__all__ = ["CleanSummary", "clean_delivery_queue", "close_days", "frequency_summary"]

"""All commands, registered by importing their modules, and `run`."""

from __future__ import annotations

from mail_orchestration.cli import (
    campaign_commands,
    care_commands,
    demo_commands,
    mail_job_commands,
    mailcaster_commands,
    setup_commands,
)
from mail_orchestration.cli.app import app, run

__all__ = [
    "app",
    "campaign_commands",
    "care_commands",
    "demo_commands",
    "mail_job_commands",
    "mailcaster_commands",
    "run",
    "setup_commands",
]

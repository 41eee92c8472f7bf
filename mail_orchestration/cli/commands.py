"""All commands, registered by importing their modules in the order in which `--help` shows them, and `run`."""

from __future__ import annotations

from importlib import import_module

from mail_orchestration.cli.app import app, run

__all__ = ["app", "run"]

for _module in (
    "setup",
    "dkim",
    "import",
    "campaign",
    "launch",
    "simulate",
    "release",
    "campaign_state",
    "mail_job",
    "report",
    "message",
    "status",
    "throttle",
    "uncertain",
    "frequency",
    "loose_mail",
    "operator",
    "mailcaster",
    "single_mail",
    "single_mail_failure",
    "single_mailer",
    "process",
    "care",
    "hold",
    "demo",
):
    import_module(f"mail_orchestration.cli.{_module}_commands")

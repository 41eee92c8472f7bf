"""Mails that go one by one: single mails are submitted, composed and sent (spec 7)."""

from __future__ import annotations

from mail_orchestration.single_mailer.mails import SingleMail, Submission, Submitted
from mail_orchestration.single_mailer.submitting import submit

__all__ = ["SingleMail", "Submission", "Submitted", "submit"]

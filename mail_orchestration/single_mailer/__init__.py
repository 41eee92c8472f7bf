"""Mails that go one by one: single mails are submitted, composed and sent (spec 7)."""

from __future__ import annotations

from mail_orchestration.single_mailer.failures import delete, failures, resubmit
from mail_orchestration.single_mailer.mails import SingleMail, Submission, Submitted
from mail_orchestration.single_mailer.shift import LooseShiftSummary, run_loose_shift
from mail_orchestration.single_mailer.submitting import submit
from mail_orchestration.single_mailer.worker import has_work

__all__ = [
    "LooseShiftSummary",
    "SingleMail",
    "Submission",
    "Submitted",
    "delete",
    "failures",
    "has_work",
    "resubmit",
    "run_loose_shift",
    "submit",
]

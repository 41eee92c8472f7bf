"""What is asked for and what is answered: one mail to one address (spec 7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from mail_orchestration.kernel.failure_codes import FailureCode


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleMail:
    """One mail to one address, now or at a time."""

    campaign: str | Path
    """What it says: a campaign's name under `campaigns_dir`, or its folder."""
    to: str | int
    """An address, or the number of a contact of the installation."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Values for the templates, as JSON can tell them; they win over those of the campaign's audiences."""
    at: datetime | None = None
    """Aware. None is now, and so is what passed less than a day ago."""
    occurrence: str = ""
    """What happened, such as the number of an order: the same mail goes once for each occurrence (spec 6.6)."""
    priority: int | None = None
    """−1000 to 1000, higher first; None is the campaign's own."""


class Submission(StrEnum):
    """What became of a mail that was submitted."""

    QUEUED = "queued"
    """It goes at once."""
    SCHEDULED = "scheduled"
    """It goes at its time."""
    PAUSED = "paused"
    """It goes when its campaign is resumed."""
    DUPLICATE = "duplicate"
    """The same was submitted within the history, so nothing is sent for this one (spec 6.6)."""
    SUPPRESSED = "suppressed"
    """Its contact must not be written to."""
    REFUSED = "refused"
    """Something is wrong with it."""

    @property
    def is_taken(self) -> bool:
        """Whether there is a single mail of it now."""
        return self in (Submission.QUEUED, Submission.SCHEDULED, Submission.PAUSED)

    @property
    def is_well(self) -> bool:
        """Whether what was asked for is done: it is taken now, or the same was before."""
        return self.is_taken or self is Submission.DUPLICATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """The answer to one mail."""

    index: int
    """Its place among those that were submitted together, from 0."""
    submission: Submission
    loose_mail_id: int | None = None
    """Its number, where it was taken."""
    due_at: datetime | None = None
    queued_at: datetime | None = None
    """Of a duplicate: when the same was queued."""
    code: FailureCode | None = None
    """Of one that is refused for what it is, and would fail in the same way when it is sent."""
    reason: str = ""
    """Why it was not taken. Holds no address."""

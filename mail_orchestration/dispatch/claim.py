"""A claim: the right of one mailcaster to work on one range of messages, as long as its fence holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sqlalchemy import Row

from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.errors import ClaimLost
from mail_orchestration.kernel.model import MessageRange
from mail_orchestration.kernel.states import MailJobKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One small mail job or child, RUNNING in the hands of `mailcaster`."""

    mail_job_id: int
    installation_id: int
    release_id: int
    """The mail job of the release: itself for a small one, the parent for a child, the first of a recovery
    chain.
    """
    released_on: date
    """The partition of the release's messages and results."""
    parent_id: int | None
    kind: MailJobKind
    first_message: int
    last_message: int
    """Inclusive."""
    fence: int
    """Every write under this claim names it; whoever takes the work over makes it worthless (spec 5.5)."""
    mailcaster: str
    recovers_id: int | None
    """The mail job that this one was made from: some of its messages may have results already (spec 5.3)."""
    taken_at: float = field(default_factory=steady_seconds, compare=False)
    """This host's steady clock, in seconds, from before the claim: its lease counts from here."""

    @property
    def size(self) -> int:
        """How many messages the range has, with and without results."""
        return self.last_message - self.first_message + 1

    @property
    def messages(self) -> MessageRange:
        """The range, with and without results."""
        return MessageRange(
            release_id=self.release_id,
            released_on=self.released_on,
            first_message=self.first_message,
            last_message=self.last_message,
        )

    def lost(self) -> ClaimLost:
        """The error to raise when the database no longer knows this claim."""
        return ClaimLost(f"mail job {self.mail_job_id} is no longer held by mailcaster {self.mailcaster}")


def claim_of(row: Row[Any], taken_at: float) -> Claim:
    """A row of the claiming statements as a `Claim`; `taken_at` is of before the statement."""
    return Claim(**{**row._mapping, "kind": MailJobKind(row.kind), "taken_at": taken_at})

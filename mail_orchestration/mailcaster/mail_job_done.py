"""What a mailcaster tells of a mail job when its turn with it is over."""

from __future__ import annotations

from dataclasses import dataclass, field

from mail_orchestration.kernel.states import MailJobKind, MailJobState


@dataclass(frozen=True, slots=True, kw_only=True)
class MailJobDone:
    """How one mail job's turn with a mailcaster ended. The counts are of this turn."""

    mail_job_id: int
    parent_id: int | None
    release_id: int
    kind: MailJobKind
    state: MailJobState
    reason: str = ""
    first_message: int
    last_message: int
    accepted: int = 0
    deferred: int = 0
    rejected: int = 0
    uncertain: int = 0
    stopped: int = 0
    expired: int = 0
    seconds: float = 0.0
    relay_errors: dict[str, str] = field(default_factory=dict)
    """Per relay that failed at any time, why it did last."""

    @property
    def results(self) -> int:
        """How many messages got a result."""
        return self.accepted + self.deferred + self.rejected + self.uncertain + self.stopped + self.expired

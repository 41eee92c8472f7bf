"""The mail jobs of the model, and the tables of the spec by which mailcasters are given them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.states import TRANSITIONS, MailJobState

_S = MailJobState
LIVE = frozenset({_S.RUNNING, _S.STOPPING})
"""A mailcaster has it in hand."""
WAITING = frozenset({_S.QUEUING, _S.INTERRUPTED, _S.QUEUED, _S.P_QUEUED})
"""Nothing of it was taken yet."""
ANY_NUMBER = 1000

SEARCHES = {
    "small only": "small recovering, small hanging, small queued",
    "small first": "small recovering, small hanging, small queued, child recovering, assigning, untouched",
    "large first": "child recovering, child hanging, assigning, untouched, "
    "small recovering, small hanging, small queued",
    "large only": "child recovering, child hanging, assigning, untouched",
}
"""The table of spec 4.3."""


def searches(mailcaster: MailcasterParameters) -> list[str]:
    """What a mailcaster looks for, in order (spec 4.1, 4.3, 5.3)."""
    over = mailcaster.max_job_size - mailcaster.small_audience_threshold
    if over > 0:
        line = "large only" if mailcaster.large_job_only else "large first"
    elif over < 0 and mailcaster.small_job_only:
        line = "small only"
    else:
        line = "small first"
    classes = SEARCHES[line].split(", ")
    return [name for name in classes if mailcaster.automatic_mail_job_recovery or "hanging" not in name]


def share(remaining: int, total: int, untouched: bool, mailcaster: MailcasterParameters) -> int:
    """How many messages the next child takes (spec 4.4)."""
    if untouched and mailcaster.min_job_size <= total <= mailcaster.max_job_size:
        return total
    size = int(mailcaster.percentage_job_size) * remaining // 100
    size = max(size, mailcaster.min_job_size)
    size = min(size, mailcaster.max_job_size)
    return min(size, remaining)


@dataclass
class ReleaseModel:
    """What was released: messages 1 … `messages`, and until when they may be sent."""

    number: int
    campaign: int
    messages: int
    expires_at: datetime | None = None


@dataclass(eq=False)
class Job:
    """One mail job. `history` holds every state that it was in."""

    number: int
    release: ReleaseModel
    kind: str
    state: MailJobState
    first: int | None = None
    last: int | None = None
    next: int | None = None
    parent: Job | None = None
    recovers: Job | None = None
    priority: int = 0
    queued_at: datetime | None = None
    asked: MailJobState | None = None
    """What the operator asked for and it does when it leaves its present state."""
    heartbeat_at: datetime | None = None
    has_session: bool = False
    """The session that holds it is open: its mailcaster lives, or its host has not noticed its end."""
    is_handed_back: bool = False
    """Its mailcaster has let go of it, and waits for nobody: it hangs."""
    recorded: int = 0
    """Messages whose first result was written under it, but for those of expiry."""
    history: list[MailJobState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history.append(self.state)

    def enter(self, state: MailJobState) -> None:
        """Go to `state`, along a way that the spec knows."""
        assert state in TRANSITIONS[self.state], f"mail job {self.number}: {self.state} → {state}"
        self.state = state
        self.history.append(state)

    @property
    def numbers(self) -> range:
        """The messages that it covers."""
        assert self.first is not None
        assert self.last is not None
        return range(self.first, self.last + 1)

    @property
    def is_live(self) -> bool:
        """A mailcaster has it in hand: its writes are taken."""
        return self.state in LIVE and not self.is_handed_back


@dataclass(frozen=True)
class Work:
    """What a mailcaster should be given: the mail job that it comes from, and the range."""

    source: Job
    how: str
    first: int
    last: int

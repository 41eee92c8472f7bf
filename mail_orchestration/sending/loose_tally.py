"""What came of loose mails: counted turn by turn, added up over a shift."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mail_orchestration.kernel.attempts import Outcome


@dataclass(kw_only=True)
class LooseTally:
    """What came of a worker's turn at loose mails."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    """Durable results of attempts, and of decisions not to make one."""
    failed: int = 0
    """Those that are dead letters now; the attempt that was the last is among the outcomes."""
    lost: int = 0
    """Results that were refused: the reservation had run out, and somebody else has the mail."""
    is_held: bool = False
    unreachable: str | None = None
    """Why no relay could be reached, if that ended it."""

    @property
    def mails(self) -> int:
        """How many results there were."""
        return self.outcomes.total()

    def add(self, other: LooseTally) -> None:
        """Count `other` in."""
        self.outcomes.update(other.outcomes)
        self.failed += other.failed
        self.lost += other.lost
        self.is_held, self.unreachable = other.is_held, other.unreachable

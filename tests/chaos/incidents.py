"""What was done to the fleet, as it is judged in the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.chaos.plan import Kind


@dataclass
class Incident:
    """One fault that struck."""

    kind: Kind
    at: float
    """Seconds since the epoch, just before it struck."""
    until: float
    """When it was over: for a process that was suspended, its awakening."""
    hit: list[str] = field(default_factory=list)
    """The mailcasters' processes that it struck, as they introduce themselves to the relay."""
    taken_up_at: float | None = None
    """When what it cut off was begun again, for other work than mail jobs."""

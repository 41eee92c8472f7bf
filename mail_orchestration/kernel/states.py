"""The states of mail jobs: who sets each, and what ends it (spec 3.2).

SQL's enum and the diagram in the docs are checked against this page.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class MailJobKind(StrEnum):
    """What a mail job is, fixed at dedup (spec 3.1)."""

    SMALL = "small"
    """Fewer recipients than the dispatcher's `small_audience_threshold`; never divided."""
    PARENT = "parent"
    """All others; worked on as children."""
    CHILD = "child"
    """A range of a parent's messages."""


class MailJobState(StrEnum):
    """Where a mail job stands."""

    QUEUING = "QUEUING"
    """Set by a release; left when dedup and assembly are done (for STOPPED_Q if the operator stopped it
    meanwhile), or were interrupted, failed or stopped.
    """
    INTERRUPTED = "INTERRUPTED"
    """Set by the scheduled check when dedup was cut off; left by releasing again."""
    STOPPED = "STOPPED"
    """Set when there is no recipient, or the campaign was edited or deleted while waiting. Terminal."""
    QUEUED = "QUEUED"
    """Small: ready. Left when a mailcaster takes it, or it is stopped."""
    P_QUEUED = "P_QUEUED"
    """Parent: ready, no child yet. Left with the first child, or when it is stopped."""
    P_ASSIGNING = "P_ASSIGNING"
    """Parent: some children made, messages remain. Left when none remain, or it is stopped."""
    P_ASSIGNED = "P_ASSIGNED"
    """Parent: all messages are in children. Left when all effective children ended, or it is stopped."""
    P_FINISHED = "P_FINISHED"
    """Parent: all effective children finished. Terminal."""
    P_FAILED = "P_FAILED"
    """Parent: all effective children failed. Left when a failed child is restarted."""
    P_PARTIAL_FINISHED = "P_PARTIAL_FINISHED"
    """Parent: some effective children finished, some failed. Left when a failed child is restarted."""
    RUNNING = "RUNNING"
    """Small, child: a mailcaster works on it; children are born so."""
    STOPPING = "STOPPING"
    """Small, child: stop was asked for while RUNNING. Left when the mailcaster lets go, or is found dead: for
    FINISHED when every message has a result by then, for RECOVERING when it was restarted meanwhile.
    """
    STOPPED_R = "STOPPED_R"
    """Stopped while running. Left by a restart; a parent's last effective child may also end meanwhile."""
    STOPPED_Q = "STOPPED_Q"
    """Small, parent: stopped while waiting, or before it was queued. Left by a restart."""
    RECOVERING = "RECOVERING"
    """Small, child: restarted by the operator, ready to be picked up. Left for FAILED when it is too old for
    that (spec 5.4), for STOPPED_R when it is stopped again.
    """
    RECOVERED = "RECOVERED"
    """Small, child: a new mail job was made from it. Terminal."""
    FINISHED = "FINISHED"
    """Small, child: every message has a result. Terminal."""
    FAILED = "FAILED"
    """Gave up (spec 3.7), or assembly failed (spec 2.7). A small one or a child can be restarted."""

    @property
    def is_ended(self) -> bool:
        """Nobody will work on it unless an operator restarts it."""
        return self in ENDED

    @property
    def is_parents_own(self) -> bool:
        """Only parents are ever in it."""
        return self.name.startswith("P_")


_S = MailJobState

ENDED = frozenset(
    {_S.STOPPED, _S.RECOVERED, _S.FINISHED, _S.FAILED, _S.P_FINISHED, _S.P_FAILED, _S.P_PARTIAL_FINISHED}
)

TRANSITIONS: Mapping[MailJobState, frozenset[MailJobState]] = MappingProxyType(
    {
        _S.QUEUING: frozenset({_S.QUEUED, _S.P_QUEUED, _S.STOPPED_Q, _S.INTERRUPTED, _S.STOPPED, _S.FAILED}),
        _S.INTERRUPTED: frozenset({_S.QUEUING, _S.STOPPED}),
        _S.STOPPED: frozenset(),
        _S.QUEUED: frozenset({_S.RUNNING, _S.STOPPED_Q, _S.STOPPED}),
        _S.P_QUEUED: frozenset({_S.P_ASSIGNING, _S.P_ASSIGNED, _S.STOPPED_Q, _S.STOPPED}),
        _S.P_ASSIGNING: frozenset({_S.P_ASSIGNED, _S.STOPPED_R}),
        _S.P_ASSIGNED: frozenset({_S.P_FINISHED, _S.P_FAILED, _S.P_PARTIAL_FINISHED, _S.STOPPED_R}),
        _S.P_FINISHED: frozenset(),
        _S.P_FAILED: frozenset({_S.P_ASSIGNED}),
        _S.P_PARTIAL_FINISHED: frozenset({_S.P_ASSIGNED}),
        _S.RUNNING: frozenset({_S.FINISHED, _S.FAILED, _S.STOPPING, _S.RECOVERED}),
        _S.STOPPING: frozenset({_S.STOPPED_R, _S.FINISHED, _S.RECOVERING}),
        _S.STOPPED_R: frozenset(
            {_S.RECOVERING, _S.P_ASSIGNING, _S.P_ASSIGNED, _S.P_FINISHED, _S.P_PARTIAL_FINISHED}
        ),
        _S.STOPPED_Q: frozenset({_S.QUEUED, _S.P_QUEUED}),
        _S.RECOVERING: frozenset({_S.RECOVERED, _S.FAILED, _S.STOPPED_R}),
        _S.RECOVERED: frozenset(),
        _S.FINISHED: frozenset(),
        _S.FAILED: frozenset({_S.RECOVERING}),
    }
)

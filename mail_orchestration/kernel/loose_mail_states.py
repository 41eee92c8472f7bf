"""The kinds and states of loose mails: who sets each state, and what ends it (spec 6.2, 6.3, 7.1).

SQL's enums and the diagram in the docs are checked against this page.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class LooseMailKind(StrEnum):
    """What a loose mail is, in the order in which they go."""

    SINGLE = "single"
    """One mail to one address (spec 7)."""
    BURST = "burst"
    """A burst's mail to one of its users (spec 9)."""
    RETRY = "retry"
    """Another attempt of a message that a mail job could not deliver (spec 6.4)."""


class LooseMailState(StrEnum):
    """Where a loose mail stands. One that has come to its end is a row of the delivery log."""

    SCHEDULED = "SCHEDULED"
    """Waits for its time: the one that was asked for, that of its next attempt, or now. How every one begins."""
    QUEUED = "QUEUED"
    """Due. Set when its time has come and nothing holds it, when a worker gives it back, or its reservation ran out."""
    SENDING = "SENDING"
    """Reserved by a worker, until it has a result, is given back or the reservation runs out."""
    FAILED = "FAILED"
    """A dead letter: the most attempts were made, it cannot be composed, or ends each worker that takes it. Left by a
    resubmit, or deleted, by hand."""
    PAUSED = "PAUSED"
    """Its campaign is paused, or its mail job stopped by the operator. Left when that goes on."""
    STOPPED = "STOPPED"
    """Its campaign was deleted. Left by a resubmit, or deleted, by hand."""


_S = LooseMailState

WAITING = frozenset({_S.SCHEDULED, _S.QUEUED, _S.SENDING})
"""States that lead to another attempt, unasked."""

AT_REST = frozenset({_S.FAILED, _S.STOPPED})
"""States that only a hand ends."""

LOOSE_MAIL_TRANSITIONS: Mapping[LooseMailState, frozenset[LooseMailState]] = MappingProxyType(
    {
        _S.SCHEDULED: frozenset({_S.QUEUED, _S.PAUSED, _S.STOPPED}),
        _S.QUEUED: frozenset({_S.SENDING, _S.PAUSED, _S.STOPPED}),
        _S.SENDING: frozenset({_S.SCHEDULED, _S.QUEUED, _S.FAILED, _S.PAUSED, _S.STOPPED}),
        _S.FAILED: frozenset({_S.SCHEDULED, _S.QUEUED}),
        _S.PAUSED: frozenset({_S.SCHEDULED, _S.STOPPED}),
        _S.STOPPED: frozenset({_S.SCHEDULED, _S.QUEUED}),
    }
)
"""The ways between them. From SENDING, and by hand from FAILED and STOPPED, a row moves to the delivery log."""

"""What each type of mailcaster looks for, in which order (spec 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from mail_orchestration.dispatch.mailcaster_types import MailcasterType, mailcaster_type
from mail_orchestration.kernel.fleet_settings import MailcasterParameters


class WorkKind(StrEnum):
    """The classes of work that a mailcaster can find."""

    SMALL_RECOVERING = "small_recovering"
    """A small mail job that the operator restarted."""
    SMALL_HANGING = "small_hanging"
    """A small mail job whose mailcaster gives no sign of life (spec 5.2)."""
    SMALL_QUEUED = "small_queued"
    CHILD_RECOVERING = "child_recovering"
    CHILD_HANGING = "child_hanging"
    P_ASSIGNING = "p_assigning"
    """A parent that has children already, and messages in none of them."""
    P_QUEUED = "p_queued"
    """A parent that nobody has touched yet."""

    @property
    def is_hanging(self) -> bool:
        """Found by its old heartbeat, without an operator's word."""
        return self in (WorkKind.SMALL_HANGING, WorkKind.CHILD_HANGING)


_W = WorkKind

SEARCH_ORDER: Mapping[MailcasterType, tuple[WorkKind, ...]] = MappingProxyType(
    {
        MailcasterType.SMALL_JOB_ONLY: (_W.SMALL_RECOVERING, _W.SMALL_HANGING, _W.SMALL_QUEUED),
        MailcasterType.SMALL_JOB_PRIORITY: (
            _W.SMALL_RECOVERING,
            _W.SMALL_HANGING,
            _W.SMALL_QUEUED,
            _W.CHILD_RECOVERING,
            _W.P_ASSIGNING,
            _W.P_QUEUED,
        ),
        MailcasterType.LARGE_JOB_PRIORITY: (
            _W.CHILD_RECOVERING,
            _W.CHILD_HANGING,
            _W.P_ASSIGNING,
            _W.P_QUEUED,
            _W.SMALL_RECOVERING,
            _W.SMALL_HANGING,
            _W.SMALL_QUEUED,
        ),
        MailcasterType.LARGE_JOB_ONLY: (
            _W.CHILD_RECOVERING,
            _W.CHILD_HANGING,
            _W.P_ASSIGNING,
            _W.P_QUEUED,
        ),
    }
)


def search_order(parameters: MailcasterParameters) -> tuple[WorkKind, ...]:
    """The classes that this mailcaster searches; hanging ones only with `automatic_mail_job_recovery` (spec
    5.3).
    """
    order = SEARCH_ORDER[mailcaster_type(parameters)]
    if parameters.automatic_mail_job_recovery:
        return order
    return tuple(work for work in order if not work.is_hanging)

"""What can go wrong, shaped by what the caller can do about it.

The docstring of an error is its message when none is given.
"""

from __future__ import annotations


class MailOrchestrationError(Exception):
    """Something went wrong in mail_orchestration."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class BadInput(MailOrchestrationError):
    """What was given is wrong: the message names file, line, key or parameter. Mend it and try again."""


class BadSettings(BadInput):
    """The settings file or the environment is wrong."""


class BadCampaign(BadInput):
    """The campaign's folder is wrong."""


class BadAudience(BadInput):
    """The audience's source cannot be read."""


class BadAddress(BadInput):
    """This is no address that mail can be sent to."""


class NotFound(BadInput):
    """There is nothing by that name or number."""


class Unavailable(MailOrchestrationError):
    """Something outside does not answer. The same call may succeed later; nothing was lost."""


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached."""


class RelayUnreachable(Unavailable):
    """No relay could be reached for as long as the mail job may wait for one."""


class ComponentFailed(MailOrchestrationError):
    """A custom component raised: the message names the component and the stage."""


class AssemblyFailed(MailOrchestrationError):
    """Too many messages of the mail job could not be assembled, so none of them is sent."""


class StateConflict(MailOrchestrationError):
    """The mail job is not in the state that this change leaves."""


class ClaimLost(MailOrchestrationError):
    """The mail job is no longer held by this mailcaster."""

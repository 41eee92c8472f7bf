"""Why a message could not be composed, or not be read again."""

from __future__ import annotations

from enum import StrEnum

from mail_orchestration.kernel.errors import BadInput, MailOrchestrationError


class FaultReason(StrEnum):
    """The bypass reasons that composition sets (spec 1.4, 2.7, 2.8)."""

    MISSING_ATTRIBUTE = "missing_attribute"
    """An attribute named in `required_attributes` is absent or empty."""
    TEMPLATE_ERROR = "template_error"
    """The template failed for this recipient: an undefined name, a division by zero, a bad link."""
    TEMPLATE_LIMITS = "template_limits"
    """The template took too much time or memory, or wrote too much."""
    BAD_HEADER_FIELD = "bad_header_field"
    """A value cannot stand in a header field: a line end or another control character in it."""
    EMPTY_BODY = "empty_body"
    """Nothing to read and nothing attached."""
    PAGE_UNAVAILABLE = "page_unavailable"
    """The body is a page and it could not be fetched."""
    MESSAGE_TOO_LARGE = "message_too_large"
    """The message is larger than the campaign allows."""


class CompositionError(MailOrchestrationError):
    """This recipient's message could not be composed."""

    def __init__(self, reason: FaultReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        """For people: which attribute, file:line of which template. Holds no address."""

    def __reduce__(self) -> tuple[type[CompositionError], tuple[FaultReason, str]]:
        return type(self), (self.reason, self.detail)


class BadStoredMessage(BadInput):
    """The stored message cannot be read with this dictionary."""

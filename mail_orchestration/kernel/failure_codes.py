"""Why a mail of its own failed: the codes by which failures are grouped (spec 7.3)."""

from __future__ import annotations

from enum import StrEnum

from mail_orchestration.kernel.attempts import DeliveryResult, Phase


class FailureCode(StrEnum):
    """What went wrong. A description goes with it."""

    BAD_EMAIL_ADDRESS = "bad_email_address"
    """It cannot be written to: no address, or one that the relay cannot take (5.1.3, 5.6.7)."""
    SENDER_NOT_ACCEPTED = "sender_not_accepted"
    """The relay refused the reverse-path."""
    RECIPIENT_NOT_ACCEPTED = "recipient_not_accepted"
    """The relay refused the recipient."""
    DATA_NOT_ACCEPTED = "data_not_accepted"
    """The relay refused the message itself."""
    PERSISTENCE_EXCEPTION = "persistence_exception"
    """The message could not be stored, or cannot be read as it is stored."""
    CAMPAIGN_NOT_LOADED = "failed_to_load_campaign_or_document"
    """The campaign, or what was frozen of it, cannot be read."""
    RENDERING_EXCEPTION = "rendering_exception"
    """A template failed for this recipient: an undefined name, a missing attribute, no end, an empty body."""
    CUSTOM_FUNCTION_FAILED = "custom_function_failed"
    """A custom component raised, or is not there."""
    IO_EXCEPTION = "io_exception"
    """The page that is the body could not be fetched, the connection to the relay broke each time, or each worker that
    had the mail ended without a word."""
    TEMPLATE_FORMAT_EXCEPTION = "template_format_exception"
    """A template does not compile."""

    @property
    def label(self) -> str:
        """As people read it."""
        return _LABELS[self]


_LABELS = {
    FailureCode.BAD_EMAIL_ADDRESS: "Bad Email Address",
    FailureCode.SENDER_NOT_ACCEPTED: "Sender Not Accepted",
    FailureCode.RECIPIENT_NOT_ACCEPTED: "Recipient Not Accepted",
    FailureCode.DATA_NOT_ACCEPTED: "Data Not Accepted",
    FailureCode.PERSISTENCE_EXCEPTION: "Persistence Exception",
    FailureCode.CAMPAIGN_NOT_LOADED: "Failed to Load Campaign or Document",
    FailureCode.RENDERING_EXCEPTION: "Rendering Exception",
    FailureCode.CUSTOM_FUNCTION_FAILED: "Custom Function Failed",
    FailureCode.IO_EXCEPTION: "IO Exception",
    FailureCode.TEMPLATE_FORMAT_EXCEPTION: "Template Format Exception",
}

_ABOUT_THE_ADDRESS = frozenset({"5.1.3", "5.6.7"})
"""RFC 3463 and 6531: the address's syntax is bad, or it is not ASCII and the relay does not offer SMTPUTF8."""
_ABOUT_THE_SENDER = frozenset({"5.1.7", "5.1.8"})
"""RFC 3463: the sender's address is bad in syntax or system."""


def code_of(result: DeliveryResult) -> FailureCode:
    """What a delivery that did not succeed failed of: the command that was refused, or the connection."""
    if result.enhanced_code in _ABOUT_THE_ADDRESS:
        return FailureCode.BAD_EMAIL_ADDRESS
    if result.enhanced_code in _ABOUT_THE_SENDER:
        return FailureCode.SENDER_NOT_ACCEPTED
    match result.refused_at:
        case Phase.MAIL | Phase.RSET:
            return FailureCode.SENDER_NOT_ACCEPTED
        case Phase.RCPT:
            return FailureCode.RECIPIENT_NOT_ACCEPTED
        case Phase.DATA | Phase.FINAL_DOT:
            return FailureCode.DATA_NOT_ACCEPTED
        case None:
            # Without a reply: we refused the message ourselves (5.6.0, 5.3.4), or the connection broke.
            is_ours = result.enhanced_code is not None and result.enhanced_code.startswith("5.")
            return FailureCode.DATA_NOT_ACCEPTED if is_ours else FailureCode.IO_EXCEPTION

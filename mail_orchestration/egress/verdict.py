"""What a reply means for the message it answers: pure rules, no connection and no clock (spec 6.4)."""

from __future__ import annotations

from enum import StrEnum

from mail_orchestration.egress.reply import Reply
from mail_orchestration.kernel.attempts import Phase

SPEAKS_OF_THE_ADDRESS = frozenset(
    {
        "5.1.1",  # bad destination mailbox address
        "5.1.2",  # bad destination system address
        "5.1.3",  # bad destination mailbox address syntax
        "5.1.6",  # destination mailbox has moved, no forwarding address
        "5.1.10",  # recipient address has null MX (RFC 7505)
        "5.2.1",  # mailbox disabled, not accepting messages
    }
)
"""Enhanced status codes (RFC 3463) after which the address is suppressed. Not among them: 5.2.2, a full
mailbox, which may be emptied, and 5.7.x, which is about us."""


class Verdict(StrEnum):
    """What is to be done with the message."""

    GO_ON = "go on"
    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    REJECTED = "rejected"
    GIVE_BACK = "give back"
    """421: the relay closes the session; the message is neither sent nor attempted."""
    SESSION_REFUSED = "session refused"
    """The relay wants another set-up (authentication, TLS) before any mail: no fault of this message."""
    OUT_OF_STEP = "out of step"
    """No reply to what was said: the conversation is broken."""


_AFTER_2YZ = {
    Phase.RSET: Verdict.GO_ON,
    Phase.MAIL: Verdict.GO_ON,
    Phase.RCPT: Verdict.GO_ON,
    Phase.DATA: Verdict.OUT_OF_STEP,
    Phase.FINAL_DOT: Verdict.ACCEPTED,
}


def verdict_on(reply: Reply, phase: Phase) -> Verdict:
    """What `reply` to the command of `phase` means for the message."""
    if reply.is_positive:  # first: asked four times for each message, and nearly always so
        return _AFTER_2YZ[phase]
    if reply.closes_the_session:
        return Verdict.GIVE_BACK
    if reply.is_intermediate:
        return Verdict.GO_ON if phase is Phase.DATA and reply.code == 354 else Verdict.OUT_OF_STEP
    if phase is Phase.RSET:
        return Verdict.OUT_OF_STEP
    if phase is Phase.MAIL and reply.code in (530, 534, 535, 538):
        # RFC 4954 §6 and RFC 3207 §4: authentication or STARTTLS is required first.
        return Verdict.SESSION_REFUSED
    if reply.is_transient or _means_too_many_recipients(reply, phase):
        return Verdict.DEFERRED
    return Verdict.REJECTED


def speaks_of_the_address(reply: Reply, phase: Phase) -> bool:
    """Whether the relay says that the recipient's address takes no mail: a hard bounce, to be suppressed (spec 6.4).

    In answer to MAIL the same codes are about the sender's.
    """
    is_of_recipient = phase not in (Phase.RSET, Phase.MAIL)
    return is_of_recipient and reply.is_permanent and reply.enhanced in SPEAKS_OF_THE_ADDRESS


def _means_too_many_recipients(reply: Reply, phase: Phase) -> bool:
    # RFC 5321 §4.5.3.1.10: 552 to RCPT means 452, unless its enhanced code tells of something else.
    return phase is Phase.RCPT and reply.code == 552 and reply.enhanced in (None, "5.5.3")

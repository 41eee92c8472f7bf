"""What the stages hand each other: frozen records, no behaviour to speak of."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any, NamedTuple

from mail_orchestration.kernel.message_lines import Lines


class Outcome(StrEnum):
    """How an attempt to deliver one message ended (spec 6.4, 5.7)."""

    ACCEPTED = "accepted"
    """2yz after the final dot: the relay is responsible for the message now."""
    DEFERRED = "deferred"
    """4yz: the same message may be accepted later."""
    REJECTED = "rejected"
    """5yz: the relay will never take this message for this recipient."""
    UNCERTAIN = "uncertain"
    """The connection was lost between the final dot and its reply: nobody can know."""
    STOPPED = "stopped"
    """Not sent although assembled: the recipient was suppressed meanwhile, or the release was stopped."""
    EXPIRED = "expired"
    """Not sent although assembled: its time had passed."""


class Phase(StrEnum):
    """The command of a mail transaction that a reply answers (RFC 5321 §3.3)."""

    RSET = "RSET"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    FINAL_DOT = "final dot"


class BodyFormat(StrEnum):
    """The three body formats of a recipient (spec 1.4)."""

    TEXT = "text"
    MIME = "mime"
    MHTML = "mhtml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One contact in one mail job, as composition sees it."""

    recipient_no: int
    """1, 2, 3 … within the mail job, in the order of dedup."""
    contact_id: int
    address: str
    """Normalised: IDN domain in ASCII, domain in lower case, local part as given (spec 1.1)."""
    body_format: BodyFormat | None = None
    """None takes the campaign's default."""
    locale: str | None = None
    guid: str | None = None
    url: str | None = None
    """The recipient's own page (Direct Mailer's `rcp_url`)."""
    attributes: dict[str, Any] = field(default_factory=dict)

    # A million of them pass through pipes: dataclass' own two ask for the fields each time, and take 8 µs instead of 3.
    def __getstate__(self) -> tuple[Any, ...]:
        return _values_of_recipient(self)

    def __setstate__(self, values: tuple[Any, ...]) -> None:
        for name, value in zip(Recipient.__slots__, values, strict=True):
            object.__setattr__(self, name, value)


_values_of_recipient = attrgetter(*Recipient.__slots__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bypass:
    """Why one recipient is skipped by all later stages (spec 1.4, 1.5, 2.7, 2.8)."""

    recipient_no: int
    reason: str
    """A short machine-readable word, such as `opted_out` or `template_error`."""
    detail: str = ""
    """For people: which attribute, which line of which template. Holds no address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRange:
    """Messages of one release, both ends included."""

    release_id: int
    released_on: date
    """The partition of the release's messages and results."""
    first_message: int
    last_message: int

    def binds(self) -> dict[str, int | date]:
        """As the statements want it."""
        return {
            "release_id": self.release_id,
            "released_on": self.released_on,
            "first_message": self.first_message,
            "last_message": self.last_message,
        }


class OutgoingMessage(NamedTuple):
    """One assembled message on its way to a relay. Positional and small: a million of them pass by."""

    message_no: int
    """1, 2, 3 … without gaps among the assembled messages of one release."""
    contact_id: int
    reverse_path: str
    address: str
    data: bytes
    """The RFC 5322 message, CRLF line ends, not dot-stuffed."""
    lines: Lines = Lines.UNSEEN
    """What was found when the message was stored, if it is known that `data` is what was stored."""


class DeliveryResult(NamedTuple):
    """What became of one attempt to deliver one message. The last result of a message counts. Small, as above."""

    message_no: int
    contact_id: int
    outcome: Outcome
    reply_code: int | None
    """RFC 5321 §4.2 reply code; None where no reply was got."""
    enhanced_code: str | None
    """RFC 3463 enhanced status code such as `5.1.1`."""
    reply_text: str | None
    """The reply's text, at most 500 characters; None on the happy path to keep rows narrow."""
    relay: str
    """The relay that was asked; '' where none was: we decided, or the operator did."""
    occurred_at: datetime
    result_no: int = 1
    """1, 2, 3 … among the results of this message."""
    supersedes: Outcome | None = None
    """What the message's last result was before this one; None for a first result."""
    refused_at: Phase | None = None
    """The command that the relay refused; None where it refused none."""
    is_hard_bounce: bool = False
    """Whether the relay said that the recipient's address takes no mail: it is suppressed (spec 6.4)."""

"""One attempt to deliver one message: what goes out, and what becomes of it.

Plain classes: a million of each pass by, and where this module is compiled one is made in a tenth of a named tuple's
time.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final

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


class OutgoingMessage:
    """One assembled message on its way to a relay."""

    __slots__ = ("_data", "_lines", "address", "contact_id", "message_no", "octets", "reverse_path")

    message_no: Final[int]
    """1, 2, 3 … without gaps among the assembled messages of one release."""
    contact_id: Final[int]
    reverse_path: Final[str]
    address: Final[str]
    octets: Final[int]
    """Of `data`."""

    def __init__(
        self,
        message_no: int,
        contact_id: int,
        reverse_path: str,
        address: str,
        data: bytes,
        lines: Lines = Lines.UNSEEN,
        octets: int | None = None,
    ) -> None:
        """`octets` where the data come later: see `read`."""
        self.message_no = message_no
        self.contact_id = contact_id
        self.reverse_path = reverse_path
        self.address = address
        self.octets = len(data) if octets is None else octets
        self._data = data
        self._lines = lines

    @property
    def data(self) -> bytes:
        """The RFC 5322 message, CRLF line ends, not dot-stuffed."""
        return self.read()[0]

    @property
    def lines(self) -> Lines:
        """What was found when the message was stored, if it is known that `data` is what was stored."""
        return self.read()[1]

    def read(self) -> tuple[bytes, Lines]:
        """`data` and `lines`. One that is stored is read when somebody asks first."""
        return self._data, self._lines

    def __reduce__(self) -> tuple[object, ...]:
        # Compiled, there is no other way to copy or pickle it, which components may want.
        data, lines = self.read()
        return OutgoingMessage, (
            self.message_no,
            self.contact_id,
            self.reverse_path,
            self.address,
            data,
            lines,
        )


class DeliveryResult:
    """What became of one attempt to deliver one message. The last result of a message counts."""

    __slots__ = (
        "contact_id",
        "enhanced_code",
        "is_hard_bounce",
        "message_no",
        "occurred_at",
        "outcome",
        "refused_at",
        "relay",
        "reply_code",
        "reply_text",
        "result_no",
        "supersedes",
    )

    message_no: Final[int]
    contact_id: Final[int]
    outcome: Final[Outcome]
    reply_code: Final[int | None]
    """RFC 5321 §4.2 reply code; None where no reply was got."""
    enhanced_code: Final[str | None]
    """RFC 3463 enhanced status code such as `5.1.1`."""
    reply_text: Final[str | None]
    """The reply's text, at most 500 characters; None on the happy path to keep rows narrow."""
    relay: Final[str]
    """The relay that was asked; '' where none was: we decided, or the operator did."""
    occurred_at: Final[datetime]
    result_no: Final[int]
    """1, 2, 3 … among the results of this message."""
    supersedes: Final[Outcome | None]
    """What the message's last result was before this one; None for a first result."""
    refused_at: Final[Phase | None]
    """The command that the relay refused; None where it refused none."""
    is_hard_bounce: Final[bool]
    """Whether the relay said that the recipient's address takes no mail: it is suppressed (spec 6.4)."""

    def __init__(
        self,
        message_no: int,
        contact_id: int,
        outcome: Outcome,
        reply_code: int | None,
        enhanced_code: str | None,
        reply_text: str | None,
        relay: str,
        occurred_at: datetime,
        result_no: int = 1,
        supersedes: Outcome | None = None,
        refused_at: Phase | None = None,
        is_hard_bounce: bool = False,
    ) -> None:
        self.message_no = message_no
        self.contact_id = contact_id
        self.outcome = outcome
        self.reply_code = reply_code
        self.enhanced_code = enhanced_code
        self.reply_text = reply_text
        self.relay = relay
        self.occurred_at = occurred_at
        self.result_no = result_no
        self.supersedes = supersedes
        self.refused_at = refused_at
        self.is_hard_bounce = is_hard_bounce

    def as_tuple(self) -> tuple[object, ...]:
        """All of it, in the order in which it is made."""
        return (
            self.message_no,
            self.contact_id,
            self.outcome,
            self.reply_code,
            self.enhanced_code,
            self.reply_text,
            self.relay,
            self.occurred_at,
            self.result_no,
            self.supersedes,
            self.refused_at,
            self.is_hard_bounce,
        )

    def of_message(self, message_no: int) -> DeliveryResult:
        """The same of a message that has another number elsewhere."""
        return self._but(message_no, self.result_no, self.supersedes)

    def superseding(self, outcome: Outcome, result_no: int) -> DeliveryResult:
        """The same as the message's result number `result_no`, where the one before was `outcome`."""
        return self._but(self.message_no, result_no, outcome)

    def __reduce__(self) -> tuple[object, ...]:
        # As above.
        return DeliveryResult, self.as_tuple()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeliveryResult) and self.as_tuple() == other.as_tuple()

    def __hash__(self) -> int:
        return hash(self.as_tuple())

    def __repr__(self) -> str:
        return f"DeliveryResult{self.as_tuple()!r}"

    def _but(self, message_no: int, result_no: int, supersedes: Outcome | None) -> DeliveryResult:
        return DeliveryResult(
            message_no,
            self.contact_id,
            self.outcome,
            self.reply_code,
            self.enhanced_code,
            self.reply_text,
            self.relay,
            self.occurred_at,
            result_no,
            supersedes,
            self.refused_at,
            self.is_hard_bounce,
        )

"""What becomes of a reserved loose mail before it leaves: a message, a reason not to send it, or a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from mail_orchestration.dispatch.loose_mails import ReservedMail
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome, OutgoingMessage
from mail_orchestration.kernel.failure_codes import FailureCode


def _nobody(result: DeliveryResult, durable: asyncio.Future[None]) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A mail that may be sent."""

    mail: ReservedMail
    compose: Callable[[], OutgoingMessage]
    """The message, numbered by its loose mail, the same octets whenever it is asked for. May raise BadStoredMessage.

    Asked when its turn comes, so that a batch of large messages is not held in memory.
    """
    resends_uncertain: bool
    """The campaign's `on_uncertain`."""
    watch: Callable[[DeliveryResult, asyncio.Future[None]], None] = _nobody
    """Is shown the result, and the future that resolves when it is durable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSent:
    """A mail that is not sent, on purpose, and has come to its end."""

    mail: ReservedMail
    outcome: Literal[Outcome.STOPPED, Outcome.EXPIRED, Outcome.UNCERTAIN]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsendable:
    """A mail that cannot be sent as it is: a dead letter, until somebody mends what is wrong and resubmits it."""

    mail: ReservedMail
    code: FailureCode
    why: str
    """For people; holds no address."""


Prepared = Ready | NotSent | Unsendable


class Preparer(Protocol):
    """How loose mails of one kind become messages."""

    async def prepare(self, mails: Sequence[ReservedMail]) -> Sequence[Prepared]:
        """One answer for each, in any order. What it raises ends the delivery, and nothing is lost."""
        ...

    async def finish(self) -> None:
        """The turn is over: nothing that was prepared is still to be sent."""
        ...

    def close(self) -> None:
        """The shift is over: end what is kept from one turn to the next."""
        ...


def not_sent(mail: ReservedMail, outcome: Literal[Outcome.STOPPED, Outcome.EXPIRED], why: str) -> NotSent:
    """It ends without another attempt. One that may have arrived stays uncertain: that is the truth of it."""
    if mail.last_outcome is Outcome.UNCERTAIN:
        return NotSent(mail=mail, outcome=Outcome.UNCERTAIN, why=f"not sent again: {why}")
    return NotSent(mail=mail, outcome=outcome, why=why)


def reason_against(mail: ReservedMail, now: datetime) -> NotSent | None:
    """Why a mail must not be sent at this moment, whatever it is (spec 1.5, 3.6)."""
    if mail.expires_at is not None and mail.expires_at <= now:
        return not_sent(mail, Outcome.EXPIRED, "the campaign has expired")
    if mail.suppressed_because is not None:
        return not_sent(mail, Outcome.STOPPED, f"suppressed meanwhile: {mail.suppressed_because}")
    return None

"""Uncertain messages, and the operator's word on them (spec 5.7).

The relay may have the message or not: only somebody who can look (into the relay's log, or at the recipient's) knows.
What such a person finds out is one more result, which supersedes the uncertain one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection

from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.loose_mail_states import LooseMailState
from mail_orchestration.kernel.model import MessageRange
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState

AT_REST = (MailJobState.FINISHED, MailJobState.FAILED, MailJobState.STOPPED_R)
"""States of a mail job that nobody works on, and that nobody will take unasked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertainMessage:
    """One message of which nobody knows whether the relay has it. Holds an address: not for logs, nor for Dagster."""

    message_no: int
    recipient_no: int
    address: str
    occurred_at: datetime
    result_no: int
    """How many results it has had."""
    relay: str
    """'' where its last result is a decision of ours not to send it again."""
    reply_text: str | None
    mail_job_id: int
    """The small mail job or child that it belongs to now."""
    mail_job_state: MailJobState
    loose_mail_state: LooseMailState | None
    """Where the loose mail stands that sends it once more; None where there is none."""

    @property
    def waits_for_the_operator(self) -> bool:
        """Whether nobody is working on it, or is about to."""
        return self.loose_mail_state is None and self.mail_job_state in AT_REST


def uncertain_messages(
    connection: Connection, messages: MessageRange, *, most: int = 1000
) -> list[UncertainMessage]:
    """The first `most` uncertain messages of a range, by number."""
    rows = connection.execute(STATEMENTS["list_uncertain"], {**messages.binds(), "most": most})
    return [
        UncertainMessage(
            **{
                **row._mapping,
                "mail_job_state": MailJobState(row.mail_job_state),
                "loose_mail_state": None
                if row.loose_mail_state is None
                else LooseMailState(row.loose_mail_state),
            }
        )
        for row in rows
    ]


def settle_uncertain(
    connection: Connection,
    messages: MessageRange,
    outcome: Literal[Outcome.ACCEPTED, Outcome.REJECTED],
    *,
    now: datetime,
    recipient_nos: Collection[int] | None = None,
) -> int:
    """Record the operator's word on the uncertain messages of a range, or on those of these recipients.

    Those of mail jobs that are being worked on, or are about to be, are left alone, and those that a loose mail sends
    once more. Returns how many were settled. Needs a transaction of the caller: it keeps these mail jobs from being
    taken up again meanwhile, and makes a second operator wait and find nothing.
    """
    meant = _meant(connection, messages, recipient_nos)
    settled = connection.execute(
        STATEMENTS["settle_uncertain"], {**meant, "outcome": outcome.value, "now": now}
    )
    return int(settled.scalar_one())


def resend_uncertain(
    connection: Connection,
    messages: MessageRange,
    *,
    now: datetime,
    recipient_nos: Collection[int] | None = None,
) -> int:
    """Let the uncertain messages of a range, or those of these recipients, be sent once more, as loose mails.

    The very same octets, with as many attempts as a loose mail has. Which ones are left alone, and the rest: as
    `settle_uncertain`. Returns how many will be sent.
    """
    meant = _meant(connection, messages, recipient_nos)
    return len(connection.scalars(STATEMENTS["retry_uncertain"], {**meant, "now": now}).all())


def _meant(
    connection: Connection, messages: MessageRange, recipient_nos: Collection[int] | None
) -> dict[str, Any]:
    """The binds that say which messages are meant, their mail jobs locked."""
    locked = connection.execute(
        STATEMENTS["lock_mail_jobs_at_rest"],
        {key: value for key, value in messages.binds().items() if key != "released_on"},
    )
    return {
        **messages.binds(),
        "mail_job_ids": [row.mail_job_id for row in locked],
        "recipient_nos": None if recipient_nos is None else sorted(recipient_nos),
    }

"""Uncertain messages, and the operator's word on them (spec 5.7).

The relay may have the message or not: only somebody who can look (into the relay's log, or at the recipient's) knows.
What such a person finds out is one more result, which supersedes the uncertain one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection

from mail_orchestration.kernel.model import MessageRange, Outcome
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

    @property
    def waits_for_the_operator(self) -> bool:
        """Whether nobody is working on it, or is about to."""
        return self.mail_job_state in AT_REST


def uncertain_messages(
    connection: Connection, messages: MessageRange, *, most: int = 1000
) -> list[UncertainMessage]:
    """The first `most` uncertain messages of a range, by number."""
    rows = connection.execute(STATEMENTS["list_uncertain"], {**messages.binds(), "most": most})
    return [
        UncertainMessage(**{**row._mapping, "mail_job_state": MailJobState(row.mail_job_state)})
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

    Those of mail jobs that are being worked on, or are about to be, are left alone. Returns how many were settled.
    Needs a transaction of the caller: it keeps these mail jobs from being taken up again meanwhile, and makes a
    second operator wait and find nothing.
    """
    locked = connection.execute(
        STATEMENTS["lock_mail_jobs_at_rest"],
        {key: value for key, value in messages.binds().items() if key != "released_on"},
    )
    settled = connection.execute(
        STATEMENTS["settle_uncertain"],
        {
            **messages.binds(),
            "mail_job_ids": [row.mail_job_id for row in locked],
            "recipient_nos": None if recipient_nos is None else sorted(recipient_nos),
            "outcome": outcome.value,
            "now": now,
        },
    )
    return int(settled.scalar_one())

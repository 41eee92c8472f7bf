"""Which uncertain messages of a claim's range are sent once more (spec 5.7).

A message whose last result is `uncertain` counts as unsent for as long as fewer attempts than the most were made
and nobody decided against another one. What is found and what is counted here is the same by the view
`uncertain_message`, so that a mail job can neither finish with one left nor wait for one that nobody sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.unsent import UnsentMessage, with_blocks
from mail_orchestration.kernel.model import MessageRange
from mail_orchestration.kernel.statements import STATEMENTS

ANY_NUMBER = 1_000_000
"""Of attempts: for whoever does not know how many the campaign allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeatable:
    """The next uncertain messages, in order of their numbers. Both lists empty: nothing is left in this pass."""

    to_send: list[UnsentMessage]
    suppressed: list[UnsentMessage]
    """Their recipients were suppressed since the first attempt: they are not sent again (spec 1.5)."""
    result_nos: Mapping[int, int]
    """Message number → number of its last result."""

    def __bool__(self) -> bool:
        return bool(self.result_nos)

    @property
    def up_to(self) -> int:
        """The last message found: go on after it."""
        return max(self.result_nos)


def repeatable_messages(
    connection: Connection, claim: Claim, after_message_no: int, batch: int, most_attempts: int
) -> Repeatable:
    """At most `batch` uncertain messages of the claim's range after `after_message_no` (0 at first) of which
    fewer than `most_attempts` attempts were made. Needs a transaction of the caller.
    """
    rows = connection.execute(
        STATEMENTS["find_uncertain"],
        {
            "release_id": claim.release_id,
            "released_on": claim.released_on,
            "after": max(after_message_no, claim.first_message - 1),
            "up_to": claim.last_message,
            "most_attempts": most_attempts,
            "most": batch,
        },
    ).all()
    return Repeatable(
        to_send=with_blocks(connection, claim, [row[:6] for row in rows if not row.is_suppressed]),
        suppressed=[UnsentMessage(*row[:6]) for row in rows if row.is_suppressed],
        result_nos={row.message_no: row.result_no for row in rows},
    )


def count_repeatable(connection: Connection, messages: MessageRange, most_attempts: int = ANY_NUMBER) -> int:
    """How many messages of a range `repeatable_messages` would find in all.

    With one attempt at most there are none.
    """
    if most_attempts <= 1:
        return 0
    found = connection.execute(
        STATEMENTS["count_uncertain"], {**messages.binds(), "most_attempts": most_attempts}
    )
    return int(found.scalar_one())

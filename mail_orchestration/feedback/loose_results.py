"""Results of attempts at loose mails become durable: all that follows from them is one commit (spec 5.1, 6.3).

As with a mail job's results, what is written is written under a fence: of a mail that somebody else has reserved by now
nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from mail_orchestration.kernel.attempts import DeliveryResult
from mail_orchestration.kernel.loose_mail_states import LooseMailState
from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class LooseResult:
    """One attempt at a loose mail and what follows from it."""

    loose_mail_id: int
    fence: int
    release_id: int | None
    """Of a retry, as `mail_job_id`."""
    mail_job_id: int | None
    result: DeliveryResult
    """Its numbers of message and result are not looked at: the row knows them."""
    enters: LooseMailState | None
    """None: it has come to its end."""
    due_at: datetime | None
    is_counted: bool
    code: str | None
    description: str | None


def record_loose_results(connection: Connection, results: Sequence[LooseResult]) -> set[int]:
    """Write these results and what follows from them, in the caller's transaction. Mails may not come twice.

    Returns the numbers of those that were written; of the others the reservation is lost.
    """
    mail_jobs = {each.mail_job_id for each in results if each.mail_job_id is not None}
    releases = {each.release_id for each in results if each.release_id is not None}
    if mail_jobs:
        connection.execute(STATEMENTS["lock_mail_jobs_of_retries"], {"mail_job_ids": sorted(mail_jobs)})
        connection.execute(STATEMENTS["lock_releases_of_retries"], {"release_ids": sorted(releases)})
    written = connection.scalars(
        STATEMENTS["record_loose_results"],
        {
            "loose_mail_ids": [each.loose_mail_id for each in results],
            "fences": [each.fence for each in results],
            "moments": [each.result.occurred_at for each in results],
            "outcomes": [each.result.outcome.value for each in results],
            "reply_codes": [each.result.reply_code for each in results],
            "enhanced_codes": [each.result.enhanced_code for each in results],
            "reply_texts": [_storable(each.result.reply_text) for each in results],
            "relays": [each.result.relay for each in results],
            "hard_bounces": [each.result.is_hard_bounce for each in results],
            "entered": [None if each.enters is None else each.enters.value for each in results],
            "due": [each.due_at for each in results],
            "counted": [each.is_counted for each in results],
            "codes": [each.code for each in results],
            "descriptions": [_storable(each.description) for each in results],
        },
    )
    return set(written)


def _storable(text: str | None) -> str | None:
    """`text` without what PostgreSQL cannot hold: a relay that answers with NUL must not cost others their results."""
    if text is None:
        return None
    clean = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return clean.encode("utf-8", "replace").decode("utf-8", "replace")

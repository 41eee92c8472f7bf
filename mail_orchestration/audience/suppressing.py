"""Who must not be written to (spec 1.5): single suppressions, and lists of them from any source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection

from mail_orchestration.audience.contacts import ensure_contacts
from mail_orchestration.audience.merging import staged_chunks
from mail_orchestration.audience.rows import Reject, Source
from mail_orchestration.kernel.addresses import normalise_address
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.statements import STATEMENTS

_REJECTS_KEPT = 1_000


class SuppressionReason(StrEnum):
    """Why somebody must not be written to (spec 1.5); the same words are the bypass reasons."""

    OPTED_OUT = "opted_out"
    """Of everything."""
    OPTED_OUT_OF_TOPIC = "opted_out_of_topic"
    """Of one topic alone."""
    HARD_BOUNCE = "hard_bounce"
    COMPLAINT = "complaint"
    MANUAL = "manual"


_OPT_OUTS = frozenset({SuppressionReason.OPTED_OUT, SuppressionReason.OPTED_OUT_OF_TOPIC})


def why_suppressed(
    suppressions: Mapping[str, str], *, topic: str, is_transactional: bool
) -> SuppressionReason | None:
    """Why a contact with these suppressions (topic → reason) gets no mail about `topic`; None when it may.

    Opt-outs do not hold back what is transactional: who opted out of advertising still wants to know that the order has
    left. Hard bounces, complaints and manual suppressions do.
    """
    for each in (suppressions.get(""), suppressions.get(topic)):
        if each is not None and not (is_transactional and each in _OPT_OUTS):
            return SuppressionReason(each)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppressionSummary:
    """What a list of suppressions came to: rows_read = suppressed + already + repeated + rejected."""

    rows_read: int
    rows_suppressed: int
    """Contacts newly suppressed; whoever was no contact became one, in no audience."""
    rows_already: int
    """Contacts suppressed so before; their first record stays."""
    rows_repeated: int
    """Rows of an address that came before within the same 20,000 rows; one further away counts as `already`."""
    rows_rejected: int
    by_reason: dict[str, int]
    """Rejected rows by RejectCode."""
    rejects: tuple[Reject, ...] = field(repr=False)
    """The first 1,000 rejected rows."""


def suppress_contact(
    connection: Connection,
    contact_id: int,
    reason: str,
    *,
    topic: str = "",
    detail: str = "",
    now: datetime,
) -> bool:
    """Keep a contact from being written to; False when it was so already. In the caller's transaction.

    `reason` is a SuppressionReason; `topic` goes with opted_out_of_topic and with nothing else. Raises BadInput.
    """
    _check(reason, topic)
    suppression = {"contact_id": contact_id, "topic": topic, "reason": reason, "detail": detail, "now": now}
    return connection.execute(STATEMENTS["insert_suppression"], suppression).rowcount == 1


def suppress_address(
    connection: Connection,
    installation_id: int,
    address: str,
    reason: str,
    *,
    topic: str = "",
    detail: str = "",
    now: datetime,
) -> bool:
    """`suppress_contact` by address. One that is no contact yet becomes one, so that a later import changes nothing.

    Raises BadAddress, BadInput.
    """
    _check(reason, topic)
    (contact,) = ensure_contacts(connection, installation_id, [normalise_address(address)]).values()
    return suppress_contact(connection, contact.contact_id, reason, topic=topic, detail=detail, now=now)


def import_suppressions(
    database: Database,
    installation_id: int,
    source: Source,
    reason: str,
    topic: str = "",
    *,
    detail: str = "",
    now: datetime,
) -> SuppressionSummary:
    """Suppress every address of a source, in one transaction. Columns other than the address are not read.

    Addresses that are no contacts yet become contacts without membership. Raises BadInput for a wrong reason or topic,
    BadAudience when the source cannot be read to its end; then nobody is suppressed.
    """
    _check(reason, topic)
    read = suppressed = already = repeated = 0
    by_reason: Counter[str] = Counter()
    kept: list[Reject] = []
    what: dict[str, object] = {
        "installation_id": installation_id,
        "topic": topic,
        "reason": reason,
        "now": now,
    }
    what["detail"] = detail or f"imported from {source.name}"
    with (
        database.begin() as connection,
        closing(staged_chunks(connection, installation_id, source, address_only=True)) as chunks,
    ):
        for chunk in chunks:
            done = _suppress_staged(connection, what) if chunk.rows else 0
            read += chunk.read
            suppressed += done
            already += chunk.rows - done
            repeated += chunk.repeated
            by_reason.update(reject.code for reject in chunk.rejects)
            kept.extend(chunk.rejects[: _REJECTS_KEPT - len(kept)])
    return SuppressionSummary(
        rows_read=read,
        rows_suppressed=suppressed,
        rows_already=already,
        rows_repeated=repeated,
        rows_rejected=by_reason.total(),
        by_reason=dict(by_reason),
        rejects=tuple(kept),
    )


def _suppress_staged(connection: Connection, what: dict[str, object]) -> int:
    connection.execute(STATEMENTS["merge_contacts"], what)
    return connection.execute(STATEMENTS["suppress_staged"], what).rowcount


def _check(reason: str, topic: str) -> None:
    if reason not in set(SuppressionReason):
        known = ", ".join(SuppressionReason)
        raise BadInput(f"reason: {reason!r} is no reason for a suppression (one of {known})")
    if (topic != "") != (reason == SuppressionReason.OPTED_OUT_OF_TOPIC):
        raise BadInput("topic: an opt-out of a topic names it, and no other suppression does")

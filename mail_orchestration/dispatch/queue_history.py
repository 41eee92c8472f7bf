"""What was queued lately: the same mail is not queued again within the history, whoever asks (spec 6.6).

For mails of their own. What releases queued is known from their recipients (see `audience.resolving`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson
from sqlalchemy import Connection

from mail_orchestration.kernel.partitions import ensure_day
from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedMail:
    """What makes two mails the same."""

    campaign_id: int
    occurrence: str
    """Of the trigger: what happened, such as the number of an order; ''."""
    address_key: str
    """See `kernel.addresses.address_key`."""
    content_digest: bytes
    """Of all that the mail says: templates and attributes."""


def remember(
    connection: Connection,
    installation_id: int,
    mails: Sequence[QueuedMail],
    *,
    history: timedelta,
    now: datetime,
) -> list[bool]:
    """Which of the mails were not queued within `history` before `now`; those are remembered from now on.

    One that waits in the queue counts as queued, however long ago that was.
    One answer for each mail, in their order; of mails that come twice here the first is new. Part of the caller's
    transaction, which queues them: rolled back, nothing is remembered. Call it once in a transaction; another caller
    with the same mail waits for its end. `now` is the database's clock.
    """
    keys = [history_key(installation_id, mail) for mail in mails]
    if not keys:
        return []
    day = now.astimezone(UTC).date()
    ensure_day(connection, day)
    lock_keys(connection, keys)
    since = now - history
    remembered = connection.scalars(
        STATEMENTS["remember_mails"],
        {
            "mail_keys": keys,
            "day": day,
            "first_day": since.astimezone(UTC).date(),
            "since": since,
            "now": now,
        },
    )
    new = {bytes(key) for key in remembered}
    answers = []
    for key in keys:
        answers.append(key in new)
        new.discard(key)
    return answers


def queued_at(
    connection: Connection,
    installation_id: int,
    mails: Sequence[QueuedMail],
    *,
    history: timedelta,
    now: datetime,
) -> list[datetime | None]:
    """When each of the mails was queued last within `history` before `now`, or the one that waits; else None."""
    if not mails:
        return []
    keys = [history_key(installation_id, mail) for mail in mails]
    since = now - history
    binds = {"mail_keys": keys, "first_day": since.astimezone(UTC).date(), "since": since}
    rows = connection.execute(STATEMENTS["find_remembered_mails"], binds)
    moments = {bytes(row.mail_key): row.queued_at for row in rows}
    return [moments.get(key) for key in keys]


def lock_keys(connection: Connection, keys: Sequence[bytes]) -> None:
    """Whoever else asks about these mails waits until the caller's transaction ends.

    A statement of its own: what another caller remembered is seen only by one that begins after its end.
    """
    connection.execute(STATEMENTS["lock_history"], {"mail_keys": keys})


def history_key(installation_id: int, mail: QueuedMail) -> bytes:
    """What the history knows a mail by: 32 octets, and nobody's address."""
    parts = [
        installation_id,
        mail.campaign_id,
        mail.occurrence,
        mail.address_key,
        mail.content_digest.hex(),
    ]
    return hashlib.sha256(orjson.dumps(parts)).digest()

"""What can be said against a mail before its campaign and its contact are known: pure, and for one mail at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mail_orchestration.kernel.addresses import normalise_address
from mail_orchestration.kernel.errors import BadAddress, BadInput
from mail_orchestration.single_mailer.mails import SingleMail

LATEST = timedelta(days=1)
"""A time that passed less than this ago means now: a job that runs late still says what it has to say. What is older is
a mistake, such as of the year or the time zone, and would send yesterday's news."""
FARTHEST = timedelta(days=3660)
"""Ten years: what is later is a mistake too, such as milliseconds that were taken for seconds."""
MAXIMUM_ATTRIBUTES_OCTETS = 256_000
MAXIMUM_OCCURRENCE_LETTERS = 200
PRIORITIES = range(-1000, 1001)


class Refused(BadInput):
    """This mail cannot be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedMail:
    """One mail that may be taken, as far as it can tell itself."""

    address: str | None
    """Normalised; None where a contact is named by its number."""
    contact_id: int | None
    attributes: str
    """One JSON object, its keys sorted: the same attributes are the same text."""
    due_at: datetime
    occurrence: str
    priority: int | None


def checked(mail: SingleMail, now: datetime) -> CheckedMail:
    """Look at all but the campaign. Raises BadAddress, and Refused naming what is wrong; neither quotes the address."""
    return CheckedMail(
        address=_address(mail.to) if isinstance(mail.to, str) else None,
        contact_id=None if isinstance(mail.to, str) else _contact_id(mail.to),
        attributes=_attributes(mail.attributes),
        due_at=_due_at(mail.at, now),
        occurrence=_occurrence(mail.occurrence),
        priority=_priority(mail.priority),
    )


def _address(to: str) -> str:
    try:
        return normalise_address(to)
    except BadAddress as error:
        raise BadAddress(f"to: {error}") from None


def _contact_id(to: object) -> int:
    if isinstance(to, bool) or not isinstance(to, int) or not 0 < to < 2**63:
        raise Refused("to: must be an address, or the number of a contact")
    return to


def _attributes(attributes: object) -> str:
    if not isinstance(attributes, Mapping):
        raise Refused(f"attributes: must be an object of names and values, not {type(attributes).__name__}")
    if unnamed := [key for key in attributes if not isinstance(key, str)]:
        raise Refused(f"attributes: a name must be text, not {type(unnamed[0]).__name__}")
    try:
        text = json.dumps(dict(attributes), allow_nan=False, sort_keys=True, ensure_ascii=False)
        octets = text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        # UnicodeEncodeError would quote what it cannot encode.
        reason = "half a surrogate pair" if isinstance(error, UnicodeError) else str(error)
        raise Refused(f"attributes: cannot be written as JSON: {reason}") from None
    if len(octets) > MAXIMUM_ATTRIBUTES_OCTETS:
        raise Refused(f"attributes: {len(octets)} octets as JSON, more than {MAXIMUM_ATTRIBUTES_OCTETS}")
    return text


def _due_at(at: object, now: datetime) -> datetime:
    if at is None:
        return now
    if not isinstance(at, datetime) or at.utcoffset() is None:
        raise Refused("at: must be a moment with its offset from UTC, such as 2027-03-01T09:00:00+01:00")
    if at <= now - LATEST:
        raise Refused(f"at: {at.isoformat()} is more than {LATEST.days} day ago")
    if at > now + FARTHEST:
        raise Refused(f"at: {at.isoformat()} is more than ten years ahead")
    return max(at, now).astimezone(UTC)


def _occurrence(occurrence: Any) -> str:
    if not isinstance(occurrence, str):
        raise Refused("occurrence: must be text")
    if len(occurrence) > MAXIMUM_OCCURRENCE_LETTERS:
        raise Refused(f"occurrence: {len(occurrence)} letters, more than {MAXIMUM_OCCURRENCE_LETTERS}")
    if not occurrence.isprintable():
        raise Refused("occurrence: holds a control character")
    return occurrence


def _priority(priority: object) -> int | None:
    if priority is None:
        return None
    if isinstance(priority, bool) or not isinstance(priority, int) or priority not in PRIORITIES:
        raise Refused(f"priority: must be a number from {PRIORITIES[0]} to {PRIORITIES[-1]}")
    return priority

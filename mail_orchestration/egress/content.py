"""The last look at a message before the wire: what could smuggle a command never leaves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from mail_orchestration.kernel.message_lines import fault_of_lines

MAX_PATH_OCTETS = 254
"""RFC 5321 §4.5.3.1.3 allows 256 with the angle brackets."""

_UNFIT_IN_A_PATH = re.compile(r"[\x00-\x20\x7f<>\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why we refuse a message ourselves, without asking the relay."""

    enhanced: str
    """RFC 3463 code, as a relay would have said it."""
    reason: str
    """For people; holds no address."""


NOT_A_MESSAGE = "5.6.0"
BAD_RECIPIENT = "5.1.3"
BAD_SENDER = "5.1.7"


def refusal_of_data(data: bytes) -> Refusal | None:
    """Why `data` must not be sent: bare CR or LF, NUL, or a line over 998 octets. None when it may."""
    fault = fault_of_lines(data)
    return None if fault is None else Refusal(NOT_A_MESSAGE, fault)


def refusal_of_paths(reverse_path: str, address: str) -> Refusal | None:
    """Why the envelope must not be sent. The empty reverse-path is the null one and is well."""
    if not _fits_a_path(address) or not address:
        return Refusal(BAD_RECIPIENT, "the recipient's address cannot stand in an SMTP command")
    return _refusal_of_reverse_path(reverse_path)


@lru_cache(maxsize=64)
def _refusal_of_reverse_path(reverse_path: str) -> Refusal | None:
    """Cached: all messages of a mail job have the same."""
    if not _fits_a_path(reverse_path):
        return Refusal(BAD_SENDER, "the reverse-path cannot stand in an SMTP command")
    return None


def _fits_a_path(address: str) -> bool:
    if address.isascii() and address.isprintable():
        # Nearly always, and in a fifth of the time that a look at each character by a regular expression takes.
        return not (" " in address or "<" in address or ">" in address) and len(address) <= MAX_PATH_OCTETS
    return not _UNFIT_IN_A_PATH.search(address) and len(address.encode()) <= MAX_PATH_OCTETS

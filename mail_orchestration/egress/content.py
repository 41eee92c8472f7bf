"""The last look at a message before the wire: what could smuggle a command never leaves."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LINE_OCTETS = 998
"""RFC 5322 §2.1.1, without CRLF."""

MAX_PATH_OCTETS = 254
"""RFC 5321 §4.5.3.1.3 allows 256 with the angle brackets."""

_BARE_CR = re.compile(rb"\r(?!\n)")
_LEADING_DOT = re.compile(rb"\n\.")
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
    # As many LF as CR and an LF behind each CR: then none stands alone. Counting b"\r\n" itself takes twice as long.
    if data.count(b"\n") != data.count(b"\r") or _BARE_CR.search(data):
        return Refusal(NOT_A_MESSAGE, "the message has a bare CR or LF")
    if b"\0" in data:
        return Refusal(NOT_A_MESSAGE, "the message has a NUL")
    if _has_a_long_line(data):
        return Refusal(NOT_A_MESSAGE, f"the message has a line of more than {MAX_LINE_OCTETS} octets")
    return None


def _has_a_long_line(data: bytes) -> bool:
    # From a line's start look only for the last line end that still is in time: jumps of about 1,000 octets.
    start, reach, end = 0, MAX_LINE_OCTETS + 2, len(data)
    while end - start > MAX_LINE_OCTETS:
        line_end = data.rfind(b"\n", start, start + reach)
        if line_end < 0:
            return True
        start = line_end + 1
    return False


def refusal_of_paths(reverse_path: str, address: str) -> Refusal | None:
    """Why the envelope must not be sent. The empty reverse-path is the null one and is well."""
    if not address or _UNFIT_IN_A_PATH.search(address) or len(address.encode()) > MAX_PATH_OCTETS:
        return Refusal(BAD_RECIPIENT, "the recipient's address cannot stand in an SMTP command")
    if _UNFIT_IN_A_PATH.search(reverse_path) or len(reverse_path.encode()) > MAX_PATH_OCTETS:
        return Refusal(BAD_SENDER, "the reverse-path cannot stand in an SMTP command")
    return None


def dot_stuffed(data: bytes) -> bytes:
    """`data` with each line's leading dot doubled, the first line's too, ending in CRLF (RFC 5321 §4.5.2)."""
    data = _LEADING_DOT.sub(b"\n..", data)  # a quarter of the time of `replace`, which compares at every dot
    if data.startswith(b"."):
        data = b"." + data
    if data and not data.endswith(b"\r\n"):
        data += b"\r\n"
    return data

"""SMTP replies (RFC 5321 §4.2, RFC 2034), read from the wire in whatever pieces they come."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from mail_orchestration.egress.faults import MalformedReply

MAX_REPLY_OCTETS = 512 * 100
"""A hundred lines of the longest length of RFC 5321 §4.5.3.1.5."""

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole reply, all its lines."""

    code: int
    """Reply code, 200 to 599."""
    enhanced: str | None
    """Enhanced status code (RFC 3463) such as `5.1.1`; None where there is none of the code's class."""
    text: str
    """The lines' text joined by newlines, without codes and control characters."""

    @property
    def is_positive(self) -> bool:
        """2yz: done."""
        return 200 <= self.code < 300

    @property
    def is_intermediate(self) -> bool:
        """3yz: go on."""
        return 300 <= self.code < 400

    @property
    def is_transient(self) -> bool:
        """4yz: not now."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """5yz: never."""
        return self.code >= 500

    @property
    def closes_the_session(self) -> bool:
        """421: the relay closes the connection, whatever was asked (RFC 5321 §3.8)."""
        return self.code == 421

    def __str__(self) -> str:
        return " ".join(
            part for part in (str(self.code), self.enhanced, self.text.replace("\n", " ")) if part
        )


class ReplyParser:
    """Takes octets as they arrive, gives whole replies. A line ends in LF, with or without CR."""

    __slots__ = ("_known", "_lines", "_octets", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []
        self._octets = 0
        # A relay says the same few lines for every message: look them up rather than parse them.
        self._known: dict[bytes, Reply] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing of an unfinished reply is held."""
        return not self._rest and not self._lines

    def feed(self, octets: bytes, replies: deque[Reply]) -> None:
        """Append to `replies` those that `octets` complete.

        Raises MalformedReply at the first line that is none, or when a reply passes MAX_REPLY_OCTETS; what
        was complete before it has been appended.
        """
        lines = (self._rest + octets if self._rest else octets).split(b"\n")
        self._rest = lines.pop()
        known = self._known
        for line in lines:
            reply = None if self._lines else known.get(line)
            if reply is None:
                reply = self._finish(line)
                if reply is None:
                    continue
            replies.append(reply)
        if len(self._rest) + self._octets > MAX_REPLY_OCTETS:
            raise MalformedReply("the relay's reply has no end")

    def _finish(self, line: bytes) -> Reply | None:
        """The reply that `line` ends, or None while it goes on."""
        self._octets += len(line) + 1
        if self._octets > MAX_REPLY_OCTETS:
            raise MalformedReply("the relay's reply has no end")
        content = line.removesuffix(b"\r")
        code, separator = content[:3], content[3:4]
        if not (
            len(code) == 3 and code.isdigit() and b"2" <= code[:1] <= b"5" and separator in (b"", b" ", b"-")
        ):
            raise MalformedReply("the relay sent a line that is no SMTP reply")
        if self._lines and self._lines[0][:3] != code:
            raise MalformedReply("the reply codes of one reply's lines differ")
        self._lines.append(content)
        if separator == b"-":
            return None
        reply = _reply(int(code), [held[4:] for held in self._lines])
        if len(self._lines) == 1 and len(self._known) < 64:
            self._known[line] = reply
        self._lines = []
        self._octets = 0
        return reply


def _reply(code: int, lines: list[bytes]) -> Reply:
    texts = [_CONTROLS.sub(" ", line.decode("utf-8", "replace")) for line in lines]
    found = _ENHANCED.match(texts[0])
    # RFC 2034 §4: the class must be that of the reply code; one that contradicts it says nothing.
    enhanced = found.group(1) if found and found.group(1)[0] == str(code)[0] else None
    if enhanced is not None:
        texts = [
            text.removeprefix(enhanced).lstrip() if text.startswith(enhanced) else text for text in texts
        ]
    return Reply(code, enhanced, "\n".join(texts).strip())

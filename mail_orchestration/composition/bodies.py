"""Bodies as MIME entities: text, HTML, images beside the HTML, files behind both (RFC 2045, 2046, 2387).

    multipart/mixed                 when files are attached
      multipart/alternative         when there is text and HTML
        text/plain
        multipart/related           MHTML, and MIME with inline images
          text/html
          image/png …

Everything but the two texts is the same for all recipients and is made once; a message is a join of octets.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from mail_orchestration.composition.attachments import StaticPart

_MAXIMUM_LINE = 998
_MAXIMUM_QUOTED_LINE = 76
"""RFC 2045 §6.7 (5), with the `=` of a soft break."""
_REMEMBERED_LINES = 4096
_LONGEST_REMEMBERED = 1000
_SAFE_IN_7BIT = bytes([9, 10, 13, *range(32, 127)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundaries:
    """One boundary per level, fixed for the mail job. No encoded text holds `=_` (RFC 2045 §6.7)."""

    mixed: bytes
    alternative: bytes
    related: bytes

    @classmethod
    def of(cls, seed: str) -> Boundaries:
        """`seed`: a few letters and digits."""
        return cls(
            mixed=f"=_mix_{seed}".encode("ascii"),
            alternative=f"=_alt_{seed}".encode("ascii"),
            related=f"=_rel_{seed}".encode("ascii"),
        )


class BodyWriter:
    """Writes the body of every message of one mail job."""

    def __init__(
        self, boundaries: Boundaries, *, inline: Sequence[StaticPart], attachments: Sequence[StaticPart]
    ):
        self._boundaries = boundaries
        self._attached = b"".join(_delimiter(boundaries.mixed) + part.data for part in attachments)
        self._inline = b"".join(_delimiter(boundaries.related) + part.data for part in inline)
        self._quote = LineQuoter().quote
        self.writes_fit_lines = not inline and not attachments
        """Whether all that is written is ours and nothing is wrong with its lines: see `_leaf`."""

    def write(self, *, text: str | None, html: str | None, related: bool) -> bytes:
        """The message's `Content-*` fields, the empty line and the body. `text` or `html` is not None."""
        entity = b""
        if text is not None:
            entity = self._leaf(b"plain", text)
        if html is not None:
            part = self._leaf(b"html", html)
            if self._inline or related:
                part = self._related(part)
            entity = part if text is None else self._alternative(entity, part)
        return self._mixed(entity) if self._attached else entity

    def _related(self, html: bytes) -> bytes:
        head = b'Content-Type: multipart/related; type="text/html";\r\n boundary="%b"\r\n\r\n'
        boundary = self._boundaries.related
        return b"".join((head % boundary, b"--", boundary, b"\r\n", html, self._inline, _close(boundary)))

    def _alternative(self, text: bytes, html: bytes) -> bytes:
        head = b'Content-Type: multipart/alternative;\r\n boundary="%b"\r\n\r\n'
        boundary = self._boundaries.alternative
        return b"".join(
            (head % boundary, b"--", boundary, b"\r\n", text, _delimiter(boundary), html, _close(boundary))
        )

    def _mixed(self, entity: bytes) -> bytes:
        head = b'Content-Type: multipart/mixed;\r\n boundary="%b"\r\n\r\n'
        boundary = self._boundaries.mixed
        return b"".join((head % boundary, b"--", boundary, b"\r\n", entity, self._attached, _close(boundary)))

    def _leaf(self, subtype: bytes, text: str) -> bytes:
        """Either form has CRLF after every line, no other CR, LF or NUL, and no line over 998 octets."""
        text = with_line_feeds(text)
        if text.isascii():
            octets = text.replace("\n", "\r\n").encode("ascii")
            if fits_7bit(octets) and b"=_" not in octets:
                head = b"Content-Type: text/%b; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
                return head % subtype + octets
        head = b"Content-Type: text/%b; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        return head % subtype + self._quote(text)


class LineQuoter(dict[bytes, bytes]):
    """Quoted-printable (RFC 2045 §6.7), line by line: what each line became.

    Most lines of a mail job's messages are the same, and no line's encoding depends on another: so each is
    encoded once and looked up after that, five times as fast as `binascii.b2a_qp` on the whole.

    No line begins with a dot: none has to be doubled whenever the message leaves, nor breaks a link where a relay on
    the way takes one away too many.
    """

    def quote(self, text: str) -> bytes:
        """`text`, whose lines end with LF, in UTF-8; CRLF after every line, soft ones at 76 characters."""
        return b"".join(map(self.__getitem__, text[:-1].encode("utf-8", errors="replace").split(b"\n")))

    def __missing__(self, line: bytes) -> bytes:
        quoted = binascii.b2a_qp(line, istext=True).replace(b"\n", b"\r\n") + b"\r\n"
        if quoted.startswith(b".") or b"\n." in quoted:
            quoted = _without_leading_dots(quoted)
        if len(line) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED_LINES:
                self.clear()
            self[line] = quoted
        return quoted


def _without_leading_dots(quoted: bytes) -> bytes:
    """One line's quoted-printable, its soft breaks set anew where `=2E` begins what a dot began."""
    whole = quoted.removesuffix(b"\r\n").replace(b"=\r\n", b"")
    lines: list[bytes] = []
    start = 0
    while True:
        begin = b""
        if whole.startswith(b".", start):
            begin, start = b"=2E", start + 1
        room = _MAXIMUM_QUOTED_LINE - len(begin)
        if len(whole) - start <= room:
            lines.append(begin + whole[start:] + b"\r\n")
            return b"".join(lines)
        # An escape of three octets stays whole.
        end = start + room - 1
        escape = whole.find(b"=", end - 2, end)
        if escape >= 0:
            end = escape
        lines.append(begin + whole[start:end] + b"=\r\n")
        start = end


def with_line_feeds(text: str) -> str:
    """LF for every line end, one at the very end."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") else text + "\n"


def fits_7bit(octets: bytes) -> bool:
    """ASCII without control characters, without a line over 998 octets (RFC 2045 §2.7) or white space at a line's end.

    Some relays cut that off, which breaks a signature.
    """
    return (
        octets.isascii()
        and not octets.translate(None, delete=_SAFE_IN_7BIT)
        and b" \r\n" not in octets
        and not (b"\t" in octets and b"\t\r\n" in octets)
        and max(map(len, octets.split(b"\r\n"))) <= _MAXIMUM_LINE
    )


def _delimiter(boundary: bytes) -> bytes:
    return b"\r\n--%b\r\n" % boundary


def _close(boundary: bytes) -> bytes:
    return b"\r\n--%b--\r\n" % boundary

"""Header fields as octets: RFC 5322 (syntax, folding), 2047 (encoded words), 2231 (parameters), 6532 (UTF-8).

Python's `email` encodes List-Unsubscribe, which breaks it, lets NUL into Subject and takes a millisecond; so
this is our own. Every function returns one whole field, CRLF at its end, and raises `CompositionError` naming
the field when a value holds CR, LF, NUL or another control character: no value ever starts a header field of
its own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import AnyStr

from mail_orchestration.composition.errors import CompositionError, FaultReason

_PREFERRED = 78
"""RFC 5322 §2.1.1: lines should be no longer, without CRLF."""
_WITH_ENCODED_WORD = 76
"""RFC 2047 §2: a line that holds an encoded word is no longer."""
MAXIMUM_LINE = 998

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN_WORDS = re.compile(r"[!-~]{1,900}(?: [!-~]{1,900})*")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_PRINTABLE = re.compile(r"[ -~]*")
_URL = re.compile(r"[!-;=?-~]+")
_DOT_ATOM = re.compile(r"[^\s\x00-\x20()<>\[\]:;@\\,.\"]+(?:\.[^\s\x00-\x20()<>\[\]:;@\\,.\"]+)*")
_QUOTED_LOCAL = re.compile(r'"(?:[^"\\]|\\.)*"')
_MAILBOX = re.compile(
    r"\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<plain>[^<>\"]*?))\s*<(?P<address>[^<>\s]+)>\s*"
)
_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_Q = [chr(octet) if octet in _Q_SAFE else "_" if octet == 0x20 else f"={octet:02X}" for octet in range(256)]
_ATTRIBUTE_CHARACTERS = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`|~"
)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A display name, possibly empty, and an address (RFC 5322 §3.4)."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        """The right side of the address."""
        return self.address.rpartition("@")[2]


def parse_mailbox(text: str) -> Mailbox:
    """`Name <local@domain>`, `"Name, quoted" <…>` or a bare address. Raises `ValueError`."""
    if _CONTROL.search(text):
        raise ValueError("holds a control character")
    found = _MAILBOX.fullmatch(text)
    if found is None:
        mailbox = Mailbox("", text.strip())
    else:
        quoted = found["quoted"]
        name = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else found["plain"]
        mailbox = Mailbox(name.strip(), found["address"])
    local, at, domain = mailbox.address.rpartition("@")
    if not at or not local or not _DOT_ATOM.fullmatch(local) or not _is_ascii_domain(domain):
        raise ValueError("is not an address such as `Name <local@example.org>` (a domain in its ASCII form)")
    return mailbox


@lru_cache(maxsize=256)
def unstructured(name: str, value: str) -> bytes:
    """`Subject` and the like: plain when it can be, in encoded words when it must."""
    value = value.strip()
    refuse_controls(name, value)
    if not value:
        # RFC 5322 allows an empty Subject; an empty word keeps others from taking the line for a broken one.
        return f"{name}: \r\n".encode("ascii")
    if _PLAIN_WORDS.fullmatch(value) and "=?" not in value:
        if len(name) + 2 + len(value) <= _PREFERRED:
            return f"{name}: {value}\r\n".encode("ascii")
        return _folded(name, value.split(" "))
    return _folded(name, encoded_words(value, len(name) + 2))


def mailbox_field(name: str, mailbox: Mailbox) -> bytes:
    """`From`, `To` or `Reply-To` with one mailbox. A non-ASCII local part stays UTF-8 (RFC 6532)."""
    refuse_controls(name, mailbox.name)
    refuse_controls(name, mailbox.address)
    address = _address(name, mailbox.address)
    display = " ".join(mailbox.name.split())
    if not display:
        return _folded(name, [address])
    return _folded(name, [*_phrase(display, len(name) + 2), f"<{address}>"])


def list_id_field(description: str, list_id: str) -> bytes:
    """RFC 2919: `List-Id: description <list-id>`; a description that is no phrase of ASCII is encoded."""
    refuse_controls("List-Id", description)
    words = _phrase(" ".join(description.split()), 9) if description.strip() else []
    return _folded("List-Id", [*words, f"<{list_id}>"])


def url_list_field(name: str, urls: Sequence[str]) -> bytes:
    """RFC 2369: `<url>, <url>`, never encoded or folded inside a URL; each on its own line."""
    for url in urls:
        if not _URL.fullmatch(url):
            raise CompositionError(FaultReason.BAD_HEADER_FIELD, f"{name}: a URL is not plain ASCII")
        if len(url) > MAXIMUM_LINE - len(name) - 5:
            raise CompositionError(FaultReason.BAD_HEADER_FIELD, f"{name}: a URL is too long for a line")
    return (f"{name}: " + ",\r\n ".join(f"<{url}>" for url in urls) + "\r\n").encode("ascii")


def parameter_field(name: str, value: str, parameters: Iterable[tuple[str, str]]) -> bytes:
    """`Content-Type` and `Content-Disposition`: each parameter on its line, non-ASCII as in RFC 2231."""
    lines = [f"{name}: {value}"]
    for key, text in parameters:
        refuse_controls(name, text)
        if _PRINTABLE.fullmatch(text) and len(text) <= 60:
            escaped = text.replace("\\", "\\\\").replace('"', '\\"')
            plain = re.fullmatch(r"[A-Za-z0-9._+-]+", text) is not None
            lines.append(f"{key}={text}" if plain else f'{key}="{escaped}"')
        else:
            lines.extend(_extended_parameter(key, text))
    return (";\r\n ".join(lines) + "\r\n").encode("ascii")


def has_control(value: str) -> bool:
    """Whether `value` holds a character that no header field may have."""
    return _CONTROL.search(value) is not None


def refuse_controls(name: str, value: str) -> None:
    """Raise when `value` holds CR, LF, NUL or another control character. The message names the field only."""
    found = _CONTROL.search(value)
    if found is not None:
        raise CompositionError(
            FaultReason.BAD_HEADER_FIELD,
            f"{name}: holds the control character U+{ord(found[0]):04X} at position {found.start() + 1}",
        )


def encoded_words(text: str, column: int) -> list[str]:
    """`text` as RFC 2047 encoded words of at most 75 characters, in UTF-8, none splitting a character.

    `column` is where the first one starts; Q or B, whichever is shorter for the whole.
    """
    octets = text.encode("utf-8")
    quoted = octets.decode("latin-1").translate(_Q)
    if len(quoted) <= (len(octets) + 2) // 3 * 4:
        rooms = chain((_room(column),), repeat(_room(1)))
        return [f"=?utf-8?q?{word}?=" for word in _cut(quoted, rooms, _end_in_q)]
    # Three octets for every four characters.
    rooms = chain((_room(column) // 4 * 3,), repeat(_room(1) // 4 * 3))
    return [f"=?utf-8?b?{base64.b64encode(word).decode()}?=" for word in _cut(octets, rooms, _end_in_b)]


def _cut(whole: AnyStr, rooms: Iterator[int], end_before: Callable[[AnyStr, int], int]) -> Iterator[AnyStr]:
    """Pieces that each fill their room as far as a character's end allows."""
    start = 0
    for room in rooms:
        end = start + room
        if end >= len(whole):
            yield whole[start:]
            return
        end = end_before(whole, end)
        yield whole[start:end]
        start = end


def _end_in_q(quoted: str, end: int) -> int:
    """The last place up to `end` that is neither within an octet's three characters nor within a character's octets."""
    end -= 1 if quoted[end - 1] == "=" else 2 if quoted[end - 2] == "=" else 0
    while quoted[end] == "=" and quoted[end + 1] in "89AB":
        end -= 3
    return end


def _end_in_b(octets: bytes, end: int) -> int:
    while octets[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _room(column: int) -> int:
    characters = min(75, _WITH_ENCODED_WORD - column) - len("=?utf-8?q??=")
    # After a long field name the first word stands on the next line.
    return characters if characters >= 12 else 63


def _phrase(display: str, column: int) -> list[str]:
    if _ATOMS.fullmatch(display) and "=?" not in display:
        words = display.split(" ")
        if all(len(word) < _PREFERRED for word in words):
            return words
    if _PRINTABLE.fullmatch(display) and len(display) <= 60 and "=?" not in display:
        escaped = display.replace("\\", "\\\\").replace('"', '\\"')
        return [f'"{escaped}"']
    return encoded_words(display, column)


def _address(name: str, address: str) -> str:
    local, at, domain = address.rpartition("@")
    if not at or not local or not domain:
        raise CompositionError(FaultReason.BAD_HEADER_FIELD, f"{name}: the address has no @")
    if _DOT_ATOM.fullmatch(local):
        return address
    if _QUOTED_LOCAL.fullmatch(local):
        return address
    escaped = local.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"@{domain}'


def _is_ascii_domain(domain: str) -> bool:
    return (
        re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*", domain) is not None
        and len(domain) <= 253
    )


def _folded(name: str, words: Sequence[str]) -> bytes:
    """`words` joined by spaces, with CRLF where a line would grow too long (RFC 5322 §2.2.3)."""
    lines = [f"{name}:"]
    for word in words:
        limit = _WITH_ENCODED_WORD if word.startswith("=?") or "=?" in lines[-1] else _PREFERRED
        # A field's first line is never left empty: some software drops such fields.
        if len(lines[-1]) + 1 + len(word) > limit and lines != [f"{name}:"]:
            lines.append("")
        lines[-1] += f" {word}"
    if any(len(line.encode("utf-8")) > MAXIMUM_LINE for line in lines):
        raise CompositionError(FaultReason.BAD_HEADER_FIELD, f"{name}: a word is too long for a line")
    return ("\r\n".join(lines) + "\r\n").encode("utf-8")


def _extended_parameter(key: str, text: str) -> list[str]:
    """RFC 2231 §3 and §4: `key*0*=utf-8''…`, in pieces that keep lines short and split no character."""
    pieces, piece = [], ""
    for character in text:
        encoded = "".join(
            chr(octet) if octet in _ATTRIBUTE_CHARACTERS else f"%{octet:02X}"
            for octet in character.encode("utf-8")
        )
        if len(piece) + len(encoded) > 50:
            pieces.append(piece)
            piece = ""
        piece += encoded
    pieces.append(piece)
    pieces[0] = f"utf-8''{pieces[0]}"
    if len(pieces) == 1:
        return [f"{key}*={pieces[0]}"]
    return [f"{key}*{number}*={each}" for number, each in enumerate(pieces)]

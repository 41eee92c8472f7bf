"""DKIM signatures (RFC 6376, RFC 8463) of messages as they are sent (spec 2.6).

Relaxed/simple. Relays fold header fields anew, which *relaxed* forgives. Of bodies they rewrite trailing spaces, long
lines and octets beyond ASCII, and `BodyWriter` writes none of them: so *simple* loses nothing, and spares each message
a tenth of a millisecond.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import NamedTuple

from mail_orchestration.kernel.dkim_keys import DkimKey

GUARDED_FIELDS = (
    *(b"from", b"reply-to", b"to", b"cc", b"subject", b"date"),
    *(b"mime-version", b"content-type", b"content-transfer-encoding"),
    *(b"list-unsubscribe", b"list-unsubscribe-post"),
)
"""Signed once more than they occur, so that one more of them breaks the signature (RFC 6376 §8.15): a second `From` or
`Subject` is what some mail programs show, a `Reply-To` or `Cc` is where answers go, another `Content-Type` makes
another body of the same octets, and another `List-Unsubscribe` is where the button leads (RFC 8058 §4)."""
SIGNED_FIELDS = (
    *(b"sender", b"list-id", b"list-help", b"list-subscribe", b"list-post", b"list-owner", b"list-archive"),
    *(b"auto-submitted", b"feedback-id"),
)
"""Signed where they occur. Not `Message-ID`, which relays replace, and nothing that is meant for them (`X-…`)."""

_PREFERRED_LINE = 78


class _Canonical(NamedTuple):
    """What of a message is signed, in its canonical form."""

    fields: bytes
    tag: tuple[bytes, ...]
    """`h=`, which names them, in lines."""
    body_hash: bytes
    """Base64, for `bh=`."""


class Signer:
    """Signs with each of the keys of one sending domain.

    With `made_up` the fields look the same, and the signatures in them are octets drawn from it.
    """

    def __init__(self, keys: Sequence[DkimKey], *, made_up: random.Random | None = None) -> None:
        self._keys = [_SigningKey(key, _signing(key, made_up)) for key in keys]

    def signature_fields(self, message: bytes, moment: datetime) -> bytes:
        """The `DKIM-Signature` fields to stand on top of `message`; the same octets every time.

        `message` is RFC 5322 with CRLF line ends and the empty line behind its header fields. `moment` is what `t=`
        tells: not later than the message is sent. There is no `x=`: mail that waits for its turn does not expire here.
        """
        canonical = _canonical(message)
        return b"".join([key.field(canonical, int(moment.timestamp())) for key in self._keys])


class _SigningKey:
    """One key, opened, with those parts of its field that no message changes."""

    def __init__(self, key: DkimKey, sign: Callable[[bytes], bytes]) -> None:
        self._sign = sign
        self._lines = (
            f"v=1; a={key.algorithm}-sha256; c=relaxed/simple;".encode("ascii"),
            f"d={key.domain};".encode("ascii"),
            f"s={key.selector}; t=%d;".encode("ascii"),
        )

    def field(self, canonical: _Canonical, moment: int) -> bytes:
        """The whole header field, folded."""
        version, domain, selector = self._lines
        lines = [version, domain, selector % moment, *canonical.tag, b"bh=%b;" % canonical.body_hash]
        # §3.7: the field itself comes last, without the value of `b=` and without CRLF; each fold is one space.
        own = b"dkim-signature:%b b=" % b" ".join(lines)
        digest = hashlib.sha256(canonical.fields + own).digest()
        encoded = base64.b64encode(self._sign(digest))
        pieces = [encoded[start : start + 72] for start in range(0, len(encoded), 72)]
        return b"DKIM-Signature: %b\r\n b=%b\r\n" % (b"\r\n ".join(lines), b"\r\n ".join(pieces))


def _signing(key: DkimKey, made_up: random.Random | None) -> Callable[[bytes], bytes]:
    """From a SHA-256 hash to its signature, or to octets as long as that."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.hashes import SHA256

    opened = key.opened()
    if made_up is not None:
        size = 64 if isinstance(opened, Ed25519PrivateKey) else opened.key_size // 8
        return lambda _: made_up.randbytes(size)
    if isinstance(opened, Ed25519PrivateKey):
        return opened.sign  # RFC 8463 §3: it signs the hash as if that were the message
    return partial(opened.sign, padding=PKCS1v15(), algorithm=Prehashed(SHA256()))


def relaxed_field(field: bytes) -> bytes:
    """A header field, folded or not, in canonical form (RFC 6376 §3.4.2), CRLF at its end.

    It holds no control characters but those of folding.
    """
    name, _, value = field.partition(b":")
    return name.strip().lower() + b":" + b" ".join(value.split()) + b"\r\n"


def simple_body_hash(message: bytes, start: int = 0) -> bytes:
    """SHA-256 of the body that begins at `start`, in canonical form (RFC 6376 §3.4.3).

    That has one CRLF at its end, however many there were.
    """
    end = len(message)
    while message.endswith(b"\r\n", start, end):
        end -= 2
    digest = hashlib.sha256(memoryview(message)[start:end])
    digest.update(b"\r\n")
    return digest.digest()


def _canonical(message: bytes) -> _Canonical:
    end = message.index(b"\r\n\r\n") + 2
    fields = [relaxed_field(field) for field in _fields(message[:end])]
    places, tag = _choice(tuple([field.partition(b":")[0] for field in fields]))
    body_hash = base64.b64encode(simple_body_hash(message, end + 2))
    return _Canonical(b"".join([fields[place] for place in places]), tag, body_hash)


def _fields(head: bytes) -> Iterable[bytes]:
    """Each header field with the lines that continue it."""
    field = b""
    for line in head.splitlines(keepends=True):
        if line[:1] in (b" ", b"\t"):
            field += line
            continue
        if field:
            yield field
        field = line
    yield field


@lru_cache(maxsize=100)
def _choice(names: tuple[bytes, ...]) -> tuple[list[int], tuple[bytes, ...]]:
    """Which of a message's fields are signed, by their places in it, and `h=`. A mail job makes it once or twice."""
    places: list[int] = []
    signed: list[bytes] = []
    for name in GUARDED_FIELDS + SIGNED_FIELDS:
        # §5.4.2: of several the lowest is signed first.
        found = [place for place in reversed(range(len(names))) if names[place] == name]
        places += found
        signed += [name] * (len(found) + (name in GUARDED_FIELDS))
    return places, _folded(signed)


def _folded(names: Sequence[bytes]) -> tuple[bytes, ...]:
    """The tag `h=`, in lines that are no longer than they should be."""
    lines, line = [], b"h=" + names[0]
    for name in names[1:]:
        if len(line) + len(name) + 3 > _PREFERRED_LINE:  # a space before, a colon on either side
            lines.append(line + b":")
            line = name
        else:
            line += b":" + name
    return (*lines, line + b";")

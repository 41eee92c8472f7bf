"""Signed tokens: what a link, a cookie or a Message-ID may claim, and who may have written it.

One HMAC-SHA-256 key per purpose, derived from a secret with a key id (RFC 5869 without the extract step: the
secret is already random). A token signed for one purpose is worth nothing for another. New tokens carry the
current key id; tokens of every other secret that the ring still holds stay valid, which for unsubscribe links
means years.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from enum import StrEnum

from mail_orchestration.kernel.errors import BadInput, BadSettings

MINIMUM_SECRET_OCTETS = 32
MAXIMUM_TOKEN_CHARACTERS = 2_000
_MAC_OCTETS = 16
_KEY_ID = re.compile(r"[A-Za-z0-9]{1,8}")


class Purpose(StrEnum):
    """What a token is for. Each has its own key."""

    COOKIE = "cookie"
    """The personalisation cookie that a fetched page is asked with (spec 2.3)."""
    UNSUBSCRIBE = "unsubscribe"
    """Unsubscribe links, one-click and by mail (RFC 8058, RFC 2369)."""
    TRACKING = "tracking"
    """Links that tell of opens and clicks (spec 10.2)."""
    MESSAGE_ID = "message-id"
    """The left side of a Message-ID: fixed by mail job and recipient, telling neither (spec 2.4)."""
    REVERSE_PATH = "reverse-path"
    """The envelope sender that tells message and recipient of a bounce (VERP, spec 10.1)."""
    TRIGGER = "trigger"
    """URLs that start a process (spec 11.4)."""


class BadToken(BadInput):
    """The token was altered, was signed for something else, or by nobody we know."""


class BadSigningSecret(BadSettings):
    """The signing secrets are unusable."""


class SigningKeys:
    """A ring of secrets by key id, with the one that signs. Its repr shows key ids only.

    `secrets`: key id (1 to 8 letters and digits) → at least 32 random octets. `current` defaults to the last
    one.
    """

    def __init__(self, secrets: Mapping[str, bytes], current: str | None = None) -> None:
        if not secrets:
            raise BadSigningSecret("no signing secret is configured")
        for key_id, secret in secrets.items():
            if not _KEY_ID.fullmatch(key_id):
                raise BadSigningSecret(f"signing key id {key_id!r} is not 1 to 8 letters and digits")
            if len(secret) < MINIMUM_SECRET_OCTETS:
                raise BadSigningSecret(
                    f"signing secret {key_id!r} has fewer than {MINIMUM_SECRET_OCTETS} octets"
                )
        self.current = current if current is not None else next(reversed(list(secrets)))
        if self.current not in secrets:
            raise BadSigningSecret(f"there is no signing secret {self.current!r}")
        self._keys = {
            (key_id, purpose): hmac.digest(secret, f"mail_orchestration:{purpose}\x01".encode(), "sha256")
            for key_id, secret in secrets.items()
            for purpose in Purpose
        }

    def __repr__(self) -> str:
        return f"SigningKeys({sorted({key_id for key_id, _ in self._keys})}, current={self.current!r})"

    def sign(self, purpose: Purpose, payload: bytes) -> str:
        """`payload` as a URL-safe token: key id, payload and 128-bit MAC, the last two in base64url."""
        mac = self.digest(purpose, payload)[:_MAC_OCTETS]
        return f"{self.current}.{_encoded(payload)}.{_encoded(mac)}"

    def verify(self, purpose: Purpose, token: str) -> bytes:
        """The payload that was signed for `purpose`. Compares in constant time; raises `BadToken`."""
        if len(token) > MAXIMUM_TOKEN_CHARACTERS or not token.isascii():
            raise BadToken
        key_id, _, rest = token.partition(".")
        payload_text, _, mac_text = rest.partition(".")
        key = self._keys.get((key_id, purpose))
        payload, mac = _decoded(payload_text), _decoded(mac_text)
        if key is None or payload is None or mac is None:
            raise BadToken
        if not hmac.compare_digest(hmac.digest(key, payload, "sha256")[:_MAC_OCTETS], mac):
            raise BadToken
        return payload

    def digest(self, purpose: Purpose, payload: bytes) -> bytes:
        """The whole MAC (32 octets) of `payload` under the current key, for names that nobody can guess."""
        return hmac.digest(self._keys[self.current, purpose], payload, "sha256")


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decoded(text: str) -> bytes | None:
    """Strictly: one text per value, so that an altered token is never a second valid one."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if _encoded(data) == text else None

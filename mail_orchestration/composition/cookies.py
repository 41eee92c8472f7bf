"""Create cookies: what each recipient's links and page requests claim, signed (spec 2.3).

The same claims, under one key per purpose, make the personalisation cookie and the links. They hold numbers
and names of ours, no address. The cookie is JSON, since sites read it in any language; the links, which only we
read, are of a fixed length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from urllib.parse import quote

import orjson

from mail_orchestration.kernel.tokens import BadToken, Purpose, SigningKeys

COOKIE_NAME = "mail_orchestration_recipient"
_NUMBERS = struct.Struct(">QIQ")
"""As wide for a small number as for a large one: links are equally long, so that lines break alike in all messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Who is asking, and about which mail. What is the same for all recipients comes first: it compresses."""

    installation: str
    site: str
    campaign: str
    mail_job_id: int
    contact_id: int
    recipient_no: int


def personalisation_cookie(claims: Claims, keys: SigningKeys) -> str:
    """The value of the cookie `COOKIE_NAME`: `SigningKeys.sign` of a JSON list."""
    payload = [
        claims.installation,
        claims.site,
        claims.campaign,
        claims.mail_job_id,
        claims.contact_id,
        claims.recipient_no,
    ]
    return keys.sign(Purpose.COOKIE, orjson.dumps(payload))


def verify_cookie(value: str, keys: SigningKeys) -> Claims:
    """Whom the cookie speaks of. Raises `BadToken`."""
    match orjson.loads(keys.verify(Purpose.COOKIE, value)):
        case [
            str() as installation,
            str() as site,
            str() as campaign,
            int() as job,
            int() as contact,
            int() as no,
        ]:
            return Claims(
                installation=installation,
                site=site,
                campaign=campaign,
                mail_job_id=job,
                contact_id=contact,
                recipient_no=no,
            )
        case _:
            raise BadToken


def unsubscribe_token(claims: Claims, keys: SigningKeys) -> str:
    """The token of `unsubscribe_url` and of the unsubscribe mail's subject."""
    return keys.sign(Purpose.UNSUBSCRIBE, _packed(claims))


def verify_unsubscribe_token(token: str, keys: SigningKeys) -> Claims:
    """Who wants to leave, and which mail they had in hand. Raises `BadToken`."""
    return _unpacked(keys.verify(Purpose.UNSUBSCRIBE, token))


def unsubscribe_url(public_base_url: str, token: str) -> str:
    """Where GET shows a page and POST unsubscribes at once (RFC 8058)."""
    return f"{public_base_url.rstrip('/')}/u/{token}"


def unsubscribe_mailto(bounce_domain: str, token: str) -> str:
    """RFC 2369 by mail: the token travels in the subject, which nobody folds to lower case."""
    return f"mailto:unsubscribe@{bounce_domain}?subject={quote(token, safe='.-_')}"


def _packed(claims: Claims) -> bytes:
    names = f"{claims.installation}\0{claims.site}\0{claims.campaign}\0".encode()
    return names + _NUMBERS.pack(claims.mail_job_id, claims.recipient_no, claims.contact_id)


def _unpacked(payload: bytes) -> Claims:
    try:
        installation, site, campaign, numbers = payload.split(b"\0", 3)
        job, no, contact = _NUMBERS.unpack(numbers)
        return Claims(
            installation=installation.decode(),
            site=site.decode(),
            campaign=campaign.decode(),
            mail_job_id=job,
            contact_id=contact,
            recipient_no=no,
        )
    except (ValueError, struct.error):
        raise BadToken from None

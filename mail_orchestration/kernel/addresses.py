"""Addresses: what counts as one, its normal form, and when two of them are the same mailbox (spec 1.1).

The grammar is email-validator's (RFC 5321, 6531, IDNA 2008 with UTS 46). Nearly every address in a list is plain ASCII,
and for those two regular expressions give the same answer forty times faster.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import email_validator

from mail_orchestration.kernel.errors import BadAddress

MAXIMUM_OCTETS = 254
"""RFC 5321 §4.5.3.1.3 with erratum 1690: a path of 256 octets less its angle brackets."""

_ATEXT = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = r"(?!..--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# Only what email-validator passes unchanged: no label with `--` in third place (punycode and RFC 5890's reserved ones),
# a top-level domain that ends in a letter and is not one of the special-use names that it refuses.
_PLAIN_LOCAL = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*", re.IGNORECASE | re.ASCII)
_PLAIN_DOMAIN = re.compile(
    rf"(?:{_LABEL}\.)+(?!(?:arpa|invalid|local|localhost|onion)\Z){_LABEL}(?<=[a-z])",
    re.IGNORECASE | re.ASCII,
)
_MAXIMUM_LOCAL_OCTETS = 64
_MAXIMUM_DOMAIN_OCTETS = 253
_NAMED = re.compile(r"(?P<name>.*?)\s*<(?P<address>[^<>]*)>\s*", re.DOTALL)
_QUOTED = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"', re.DOTALL)
_NOT_FOR_US = re.compile(r"[\s<>]")


def normalise_address(value: str) -> str:
    """The address as it goes on the envelope: trimmed, NFC, the domain in lower-case ASCII, the local part as given.

    Raises BadAddress with the reason, which does not quote the address as a whole. Refused although the RFCs know them:
    IP literals, domains without a dot, special-use domains (`.local`, `.invalid`, `localhost`; `.test` is let through,
    for trial relays), and quoted local parts with a space or an angle bracket in them.
    """
    value = value.strip()
    if len(value) <= MAXIMUM_OCTETS:
        local, _, domain = value.rpartition("@")
        plain = _plain_domain(domain)
        if plain and len(local) <= _MAXIMUM_LOCAL_OCTETS and _PLAIN_LOCAL.fullmatch(local):
            return f"{local}@{plain}"
    return normalise_by_library(value)


@lru_cache(maxsize=4096)
def _plain_domain(domain: str) -> str:
    """The domain in lower case when it is plain ASCII and valid, else empty. A list has few, each many times."""
    is_plain = len(domain) <= _MAXIMUM_DOMAIN_OCTETS and _PLAIN_DOMAIN.fullmatch(domain)
    return domain.lower() if is_plain else ""


def normalise_by_library(value: str) -> str:
    """`normalise_address` without the short cut. Raises BadAddress."""
    if len(value) > 4 * MAXIMUM_OCTETS:
        raise BadAddress(f"The email address is too long ({len(value)} characters).")
    try:
        found = email_validator.validate_email(
            value.strip(),
            check_deliverability=False,
            allow_quoted_local=True,
            test_environment=True,
            strict=True,
        )
    except email_validator.EmailNotValidError as error:
        raise BadAddress(str(error)) from None
    local = found.local_part
    if local.startswith('"') and _NOT_FOR_US.search(local):
        raise BadAddress("The email address has a space or an angle bracket in its quoted part.")
    # RFC 2142's names (`Info@`) come back in lower case; we keep local parts as given.
    given = value.strip().rpartition("@")[0].strip('"')
    if given.lower() == local.lower():
        local = given
    return f"{local}@{found.ascii_domain}"


def address_key(address: str) -> str:
    """What the spellings of one mailbox have in common, for a normalised `address`: its case is folded."""
    if address.isascii():
        return address.lower()
    return unicodedata.normalize("NFC", address.casefold())


def parse_mailbox(text: str) -> tuple[str, str]:
    """Read `Name <a@b>`, `<a@b>` or `a@b` into display name (which may be empty) and normalised address.

    Raises BadAddress.
    """
    named = _NAMED.fullmatch(text.strip())
    if named is None:
        return "", normalise_address(text)
    name = named["name"].strip()
    quoted = _QUOTED.fullmatch(name)
    if quoted is not None:
        name = re.sub(r"\\(.)", r"\1", quoted["text"])
    return unicodedata.normalize("NFC", name), normalise_address(named["address"])

"""Keys for the tests of DKIM, and the outside library that verifies with their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import dkim

from mail_orchestration.kernel.dkim_keys import Algorithm, DkimKey, load_dkim_key, new_private_key
from mail_orchestration.kernel.dkim_settings import DkimSettings


@cache
def private_key(algorithm: Algorithm) -> str:
    """One for all tests: to make an RSA key takes long."""
    return new_private_key(algorithm)


def signing_key(folder: Path, domain: str, selector: str, algorithm: Algorithm) -> DkimKey:
    """A key, as settings that name it have it loaded."""
    return load_dkim_key(section(folder, domain, selector, private_key(algorithm)))


def section(folder: Path, domain: str, selector: str, pem: str) -> DkimSettings:
    """The part of the settings that names this key, in a file of its own."""
    file = folder / f"{selector}.pem"
    file.write_text(pem, encoding="ascii")
    file.chmod(0o600)
    return DkimSettings(domain=domain, selector=selector, key=file)


def verdicts(message: bytes, keys: Iterable[DkimKey]) -> list[bool]:
    """What dkimpy says of each signature of a message, from the top, with these keys' records in DNS."""
    dns = {f"{key.selector}._domainkey.{key.domain}.".encode(): key.record().encode() for key in keys}

    def answer(name: bytes, timeout: int = 5) -> bytes | None:
        return dns.get(name)

    signatures = sum(
        line.lower().startswith(b"dkim-signature:")
        for line in message.partition(b"\r\n\r\n")[0].split(b"\r\n")
    )
    return [_verdict(message, index, answer) for index in range(signatures)]


def _verdict(message: bytes, index: int, answer: Callable[..., bytes | None]) -> bool:
    try:
        return bool(dkim.DKIM(message).verify(index, dnsfunc=answer))
    except dkim.DKIMException:
        return False

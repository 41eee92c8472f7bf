"""Private keys that sign mail, and the records in DNS with their public halves (RFC 6376 §3.6.1, RFC 8463)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

from mail_orchestration.kernel.dkim_settings import DkimSettings
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.secret import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

NEW_RSA_BITS = 2048
_FEWEST_BITS = 1024
"""RFC 8301 §3.2: a verifier takes a signature of a shorter key for none."""
_STRING_OCTETS = 255
"""RFC 1035 §3.3: the longest string in a TXT record."""


class Algorithm(StrEnum):
    """As a record's `k=` names it."""

    RSA = "rsa"
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class DkimKey:
    """A private key that is fit to sign. May be sent to another process; its repr has nothing secret."""

    domain: str
    selector: str
    algorithm: Algorithm
    bits: int
    private: Secret[bytes]
    """PKCS #8, DER."""

    def opened(self) -> RSAPrivateKey | Ed25519PrivateKey:
        """The key to sign with. Microseconds: it was looked at when it was loaded."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import load_der_private_key

        found = load_der_private_key(self.private.reveal(), None, unsafe_skip_rsa_key_validation=True)
        assert isinstance(found, RSAPrivateKey | Ed25519PrivateKey), "nothing else is loaded"
        return found

    def record(self) -> str:
        """What the TXT record says."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = self.opened().public_key()
        if self.algorithm is Algorithm.ED25519:
            octets = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        else:
            octets = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"v=DKIM1; k={self.algorithm}; p={base64.b64encode(octets).decode('ascii')}"

    def record_strings(self) -> list[str]:
        """`record` in the pieces that DNS stores; whoever reads them joins them without anything between."""
        said = self.record()
        return [said[start : start + _STRING_OCTETS] for start in range(0, len(said), _STRING_OCTETS)]


class _OfDomain(Protocol):
    @property
    def domain(self) -> str: ...


_Key = TypeVar("_Key", bound=_OfDomain)


def keys_for(domain: str, keys: Sequence[_Key]) -> list[_Key]:
    """The keys, or their sections of the settings, that sign for a `From` domain.

    Its own, else those of the nearest domain above it: DMARC's relaxed alignment (RFC 7489 §3.1.1) takes the signature
    of a domain for one of its subdomains.
    """
    name = domain.lower()
    while name:
        if found := [each for each in keys if each.domain == name]:
            return found
        name = name.partition(".")[2]
    return []


def load_dkim_keys(sections: Sequence[DkimSettings]) -> tuple[DkimKey, ...]:
    """The keys that the settings name, in their order. Raises BadSettings naming domain and place, never the key."""
    return tuple(load_dkim_key(each) for each in sections)


def load_dkim_key(section: DkimSettings) -> DkimKey:
    """The key of one section: PEM, or base64 of DER on one line. Raises BadSettings like `load_dkim_keys`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    found = _parsed(section)
    if isinstance(found, RSAPrivateKey):
        algorithm, bits = Algorithm.RSA, found.key_size
    elif isinstance(found, Ed25519PrivateKey):
        algorithm, bits = Algorithm.ED25519, 256
    else:
        kind = type(found).__name__.removesuffix("PrivateKey")
        raise BadSettings(f"{section.place} holds a key of the kind {kind}; DKIM knows RSA and Ed25519")
    if algorithm is Algorithm.RSA and bits < _FEWEST_BITS:
        raise BadSettings(
            f"{section.place} holds an RSA key of {bits} bits: under {_FEWEST_BITS} no receiver takes it"
        )
    _refuse_broken(found, section)
    return DkimKey(
        domain=section.domain,
        selector=section.selector,
        algorithm=algorithm,
        bits=bits,
        private=Secret(_der(found)),
    )


def new_private_key(algorithm: Algorithm) -> str:
    """A new private key as a PEM file holds it (PKCS #8)."""
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    made: RSAPrivateKey | Ed25519PrivateKey
    if algorithm is Algorithm.ED25519:
        made = ed25519.Ed25519PrivateKey.generate()
    else:
        made = rsa.generate_private_key(65537, NEW_RSA_BITS)
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _parsed(section: DkimSettings) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

    secret = section.secret()
    # Errors of the library may quote what they read: none of them is passed on.
    try:
        if b"-----BEGIN" in secret:
            return load_pem_private_key(secret, None, unsafe_skip_rsa_key_validation=True)
        der = base64.b64decode(b"".join(secret.split()), validate=True)
        return load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise BadSettings(
            f"{section.place} is encrypted: keep it without a password, and readable by its owner alone"
        ) from None
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        raise BadSettings(f"{section.place} holds no private key in PEM, nor in base64 of DER") from None


def _refuse_broken(key: RSAPrivateKey | Ed25519PrivateKey, section: DkimSettings) -> None:
    """A signature must verify. A look at the primes would take a twentieth of a second at every start."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        if isinstance(key, Ed25519PrivateKey):
            key.public_key().verify(key.sign(b"probe"), b"probe")
        else:
            key.public_key().verify(key.sign(b"probe", PKCS1v15(), SHA256()), b"probe", PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError):
        raise BadSettings(f"{section.place} holds a key whose parts do not fit together") from None


def _der(key: RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

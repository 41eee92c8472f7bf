"""A relay as it is configured: where it is, how to get in, and how much it may be asked to do (spec 6.8)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.secret import Secret

_DOMAIN_OR_LITERAL = re.compile(r"[A-Za-z0-9.\-_]+|\[[A-Za-z0-9.:]+\]")


class TlsMode(StrEnum):
    """How the session is encrypted. Certificates and host names are always verified."""

    NONE = "none"
    STARTTLS = "starttls"
    """Required: a relay that does not offer it, or fails at it, is not used. There is no falling back."""
    IMPLICIT = "implicit"
    """TLS from the first octet (RFC 8314), usually port 465."""


class AuthMechanism(StrEnum):
    """SASL mechanisms (RFC 4954)."""

    PLAIN = "PLAIN"
    LOGIN = "LOGIN"
    XOAUTH2 = "XOAUTH2"
    """The password is an OAuth 2 access token."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds to wait, in all, for each step. From `greeting_s` on they are those of RFC 5321 §4.5.3.2."""

    connect_s: float = 30.0
    tls_handshake_s: float = 60.0
    greeting_s: float = 300.0
    hello_s: float = 300.0
    authentication_s: float = 120.0
    mail_s: float = 300.0
    rcpt_s: float = 300.0
    data_s: float = 120.0
    data_block_s: float = 180.0
    final_dot_s: float = 600.0
    rset_s: float = 60.0
    quit_s: float = 5.0
    """Shorter than the RFC's five minutes: nothing hangs on this reply."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long a relay that failed is left alone: doubling from `first_s` to `longest_s`, with jitter."""

    first_s: float = 1.0
    longest_s: float = 60.0

    def seconds(self, failures: int, jitter: float) -> float:
        """The pause after the `failures`th failure in a row; `jitter` is in [0, 1)."""
        doubled = self.first_s * 2.0 ** min(failures - 1, 30)
        return min(self.longest_s, doubled * (1.0 + 0.25 * jitter))


@dataclass(frozen=True, kw_only=True)
class Relay:
    """One SMTP server that takes our mail. Raises BadSettings, naming the field, when it cannot be meant."""

    name: str
    host: str
    port: int = 25
    tls: TlsMode
    ca_file: Path | None = None
    """Certificates (PEM) of a private authority, trusted instead of the system's."""
    server_name: str | None = None
    """The name in the relay's certificate where `host` is an IP address or an alias."""
    username: str | None = None
    password: Secret[str] | None = None
    auth: AuthMechanism | None = None
    """None takes the best that is offered of PLAIN and LOGIN."""
    allow_plaintext_auth: bool = False
    """Authenticate without TLS. A relay on a loopback address may be asked without this."""
    weight: int = 1
    """Share of the connections, relative to the other relays'."""
    connections: int = 20
    """Most connections at once, from one delivery."""
    helo_name: str | None = None
    """The name we introduce ourselves by; None takes this host's, or its address as a literal."""
    pipelining: bool = True
    """Use PIPELINING (RFC 2920) when it is offered."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    backoff: Backoff = field(default_factory=Backoff)
    session_lifetime_s: float = 300.0
    """A session is closed and opened anew at this age: connections are reused by time, not by count."""

    def __post_init__(self) -> None:
        def refuse(parameter: str, why: str) -> None:
            raise BadSettings(f"relay {self.name!r}: {parameter} {why}")

        if not self.host:
            refuse("host", "is missing")
        if not 0 < self.port < 65536:
            refuse("port", "must lie between 1 and 65535")
        if self.weight < 1:
            refuse("weight", "must be 1 or more")
        if self.connections < 1:
            refuse("connections", "must be 1 or more")
        if (self.username is None) != (self.password is None):
            refuse("username", "and password must be given together")
        if self.auth is not None and self.username is None:
            refuse("auth", "needs username and password")
        if self.username is not None and "\0" in self.username:
            refuse("username", "must not hold NUL")
        if self.helo_name is not None and not _DOMAIN_OR_LITERAL.fullmatch(self.helo_name):
            refuse("helo_name", "must be a domain name or an address literal")
        if self.ca_file is not None and self.tls is TlsMode.NONE:
            refuse("ca_file", "is of no use with tls: none")

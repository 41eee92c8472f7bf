"""Certificates of a private authority, made for one test run, and aiosmtpd as a relay that speaks TLS."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from mail_orchestration.cli.services import free_port


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A private certificate authority."""

    ca_file: Path
    server: ssl.SSLContext
    """For a server whose certificate is for 127.0.0.1 and localhost."""
    stranger: ssl.SSLContext
    """For a server whose certificate is for other.example."""


def private_authority(folder: Path) -> Authority:
    """A fresh authority, whose certificate lies in `folder`."""
    authority = trustme.CA()
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    contexts = []
    for names in (("127.0.0.1", "localhost"), ("other.example",)):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(*names).configure_cert(context)
        contexts.append(context)
    return Authority(ca_file=ca_file, server=contexts[0], stranger=contexts[1])


class Inbox:
    """aiosmtpd's handler and authenticator: keeps who got mail, and how it came."""

    def __init__(self, password: str = "right") -> None:
        self.recipients: list[str] = []
        self.encrypted: list[bool] = []
        self.mechanisms: list[str] = []
        self._password = password.encode()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.recipients += envelope.rcpt_tos
        self.encrypted.append(session.ssl is not None)
        return "250 2.0.0 taken"

    def __call__(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        self.mechanisms.append(mechanism)
        right = isinstance(data, LoginPassword) and data == LoginPassword(b"user", self._password)
        return AuthResult(success=right, handled=False)


@contextlib.contextmanager
def aiosmtpd_relay(inbox: Inbox, **settings: object) -> Iterator[int]:
    """aiosmtpd in a thread of its own with `settings` of its SMTP class; the port that it listens on."""
    controller = Controller(inbox, hostname="127.0.0.1", port=0, **settings)
    with contextlib.ExitStack() as stack:
        # aiosmtpd connects to `port` once to see that it listens: it must know the number beforehand.
        controller.port = free_port()
        controller.start()
        stack.callback(controller.stop)
        yield controller.port

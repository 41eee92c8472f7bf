"""`python -m mail_orchestration.cli.demo_relay FOLDER`: a local SMTP relay that stores what it accepts.

FOLDER becomes a Maildir (`new/`), so any mail program opens it. A file is the message as it came, after the two
header fields that delivery adds: `Return-Path` (RFC 5321 §4.4) and `Delivered-To`. Some addresses steer it, by the
start of their local part: `gone…` is refused for good, `full…` for now. The port is written to FOLDER/port.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

import uvloop
from aiosmtpd.smtp import SMTP, Envelope, Session

HOST = "127.0.0.1"
PORT_FILE = "port"
GREATEST_MESSAGE = 50_000_000

REFUSED = "550 5.1.1 There is no such mailbox here"
FULL = "452 4.2.2 The mailbox is full, try again later"


class MaildirHandler:
    """Takes each accepted message into the Maildir before it says so."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)
        for name in ("tmp", "new", "cur"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd finds it by name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Answer by the local part's first word."""
        if address.startswith("gone"):
            return REFUSED
        if address.startswith("full"):
            return FULL
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Store one file for each recipient: written aside, then renamed, as Maildir wants it."""
        assert isinstance(envelope.content, bytes)
        for address in envelope.rcpt_tos:
            name = f"{next(self._numbers):08d}.{os.getpid()}.demo"
            file = self._folder / "tmp" / name
            fields = f"Return-Path: <{envelope.mail_from}>\r\nDelivered-To: {address}\r\n"
            file.write_bytes(fields.encode() + envelope.content)
            file.rename(self._folder / "new" / name)
        return "250 2.0.0 Stored"


def stored_message(file: Path) -> tuple[str, bytes]:
    """A stored file's recipient and the message exactly as it came over the wire."""
    _, delivered_to, message = file.read_bytes().split(b"\r\n", 2)
    return delivered_to.removeprefix(b"Delivered-To: ").decode(), message


async def serve(folder: Path) -> None:
    """Listen on a free port until SIGTERM or SIGINT."""
    handler = MaildirHandler(folder)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def protocol() -> Any:
        return SMTP(
            handler,
            hostname="relay.demo.invalid",
            ident="demo relay",
            data_size_limit=GREATEST_MESSAGE,
            enable_SMTPUTF8=True,
            loop=loop,
        )

    server = await loop.create_server(protocol, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    fresh = folder / f"{PORT_FILE}.new"
    fresh.write_text(str(port), encoding="ascii")
    fresh.rename(folder / PORT_FILE)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))

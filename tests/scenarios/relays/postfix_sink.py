"""Postfix's smtp-sink with the options that a scenario asks for, as a relay or as a store of what it got."""

from __future__ import annotations

import contextlib
import email
import email.message
import email.policy
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mail_orchestration.cli.services import free_port
from mail_orchestration.egress.relay import Backoff, Relay, Timeouts, TlsMode

A_SECOND_EACH = ("-p", "-W", ".:1")
"""Options of a sink to which each connection sends a message in a second."""


@contextlib.contextmanager
def smtp_sink(*options: str) -> Iterator[Relay]:
    """A running smtp-sink, as the relay that leads to it."""
    with _running(*options) as port:
        yield Relay(
            name="smtp-sink",
            host="127.0.0.1",
            port=port,
            tls=TlsMode.NONE,
            timeouts=Timeouts(quit_s=1.0),
            backoff=Backoff(first_s=0.02, longest_s=0.1),
        )


@dataclass(frozen=True)
class Sink:
    """An smtp-sink with a folder of what it got: one file for each mail transaction."""

    port: int
    folder: Path

    def files(self) -> Iterator[Path]:
        return (Path(entry.path) for entry in os.scandir(self.folder) if entry.name.startswith("m."))

    def plain_messages(self) -> Iterator[email.message.Message]:
        """Each mail as `messages`, under the standard library's older policy: ten times as fast."""
        for file in self.files():
            with file.open("rb") as opened:
                yield email.message_from_binary_file(opened, policy=email.policy.compat32)

    def messages(self) -> Iterator[email.message.EmailMessage]:
        """Each mail as the standard library parses it, with smtp-sink's envelope as X- fields on top."""
        for file in self.files():
            with file.open("rb") as opened:
                parsed = email.message_from_binary_file(opened, policy=email.policy.default)
            assert isinstance(parsed, email.message.EmailMessage)
            yield parsed

    def tally(self) -> Counter[str]:
        """How many mails each envelope recipient got."""
        counted: Counter[str] = Counter()
        for file in self.files():
            with file.open("rb") as opened:
                for line in opened:
                    if line.startswith(b"X-Rcpt-Args:"):
                        counted[line.split(b"<", 1)[1].split(b">", 1)[0].decode()] += 1
                        break
        return counted


@contextlib.contextmanager
def storing_sink(*options: str, host: str = "127.0.0.1") -> Iterator[Sink]:
    """A running smtp-sink that keeps every mail (`-d`)."""
    folder = Path(tempfile.mkdtemp(prefix="mo-sink-", dir="/tmp"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
        with _running("-d", f"{folder}/m.", *options, host=host) as port:
            yield Sink(port, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(*options: str, host: str = "127.0.0.1") -> Iterator[int]:
    """Its port. An unprivileged user runs it when root runs the tests."""
    program = shutil.which("smtp-sink") or shutil.which("smtp-sink", path="/usr/sbin:/usr/libexec/postfix")
    if program is None:
        pytest.skip("smtp-sink is missing: install Debian's postfix package")
    port = free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [program, *user, *options, f"{host}:{port}", "1000"], stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(host, port)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait_for(host: str, port: int) -> None:
    for _ in range(1000):
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.01)
    raise TimeoutError(f"nothing listens on port {port}")

"""Postfix's smtp-sink with the options that a scenario asks for."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from mail_orchestration.egress.relay import Backoff, Relay, Timeouts, TlsMode

_SINK = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin:/usr/local/sbin")


@contextlib.contextmanager
def smtp_sink(*options: str) -> Iterator[Relay]:
    """A running smtp-sink, as the relay that leads to it."""
    if _SINK is None:
        pytest.skip("smtp-sink (Debian: postfix) is not installed")
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [_SINK, *user, *options, f"127.0.0.1:{port}", "100"], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            with contextlib.closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        yield Relay(
            name="smtp-sink",
            host="127.0.0.1",
            port=port,
            tls=TlsMode.NONE,
            timeouts=Timeouts(quit_s=1.0),
            backoff=Backoff(first_s=0.02, longest_s=0.1),
        )
    finally:
        process.terminate()
        process.wait()

"""Postfix's own test programs: `smtp-sink`, which takes all mail, and `smtp-source`, which sends it one message."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

SENDER, RECIPIENT = "sender@example.org", "recipient@example.net"
_SINK = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin") or "smtp-sink"
_SOURCE = shutil.which("smtp-source", path="/usr/sbin:/usr/bin") or "smtp-source"


@contextmanager
def sink() -> Iterator[int]:
    """The port of a sink that listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([_SINK, *user, f"127.0.0.1:{port}", "1000"])
    try:
        _wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait()


def smtp_source(port: int, *, messages: int, octets: int, sessions: int) -> float:
    """Messages a second of `smtp-source -d`, which renders nothing and keeps no record."""
    size = ["-s", f"{sessions}", "-m", f"{messages}", "-l", f"{octets}"]
    began = time.perf_counter()
    subprocess.run([_SOURCE, "-d", *size, "-f", SENDER, "-t", RECIPIENT, f"127.0.0.1:{port}"], check=True)
    return messages / (time.perf_counter() - began)


def _wait_for(port: int) -> None:
    for _ in range(100):
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("smtp-sink does not listen")

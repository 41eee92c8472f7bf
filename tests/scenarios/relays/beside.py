"""A scripted relay in a thread of its own, for shifts that block the test's thread."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.scenarios.relays.scripted import Script, ScriptedRelay


@contextlib.contextmanager
def relay_beside(
    script: Script | None = None, *, tls: ssl.SSLContext | None = None
) -> Iterator[ScriptedRelay]:
    """A relay that serves until the block ends. What it took is to be looked at after the block, or between sends."""
    server = ScriptedRelay(script, tls=tls)
    started = threading.Event()
    ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with server:
            ending.append((asyncio.get_running_loop(), asyncio.Event()))
            started.set()
            await ending[0][1].wait()

    with ThreadPoolExecutor(1, thread_name_prefix="relay") as executor:
        serving = executor.submit(asyncio.run, serve())
        started.wait(60)
        try:
            yield server
        finally:
            loop, over = ending[0]
            loop.call_soon_threadsafe(over.set)
            serving.result(timeout=30)


@pytest.fixture
def server() -> Iterator[ScriptedRelay]:
    """One that takes all, for a test."""
    with relay_beside() as server:
        yield server


def wait_until_unanswered(server: ScriptedRelay, count: int) -> None:
    """Until the relay has taken so many messages that it does not answer (see `Script.falls_silent_after`)."""
    for _ in range(6000):
        if server.unanswered == count:
            return
        time.sleep(0.01)
    raise TimeoutError(f"{server.unanswered} messages are in flight, not {count}")

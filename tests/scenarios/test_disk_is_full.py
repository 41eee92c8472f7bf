"""The disk under the embedded server fills up in mid-delivery: the shift says so, and with room again it goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.errors import DatabaseUnavailable
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from tests.integration.embedded_servers import small_disk
from tests.scenarios.installations import (
    addresses,
    at_full_speed,
    released,
    site_with_sink,
    state,
    tally,
    wait_for_results,
)

__all__ = ["small_disk"]

CONTACTS = 3000
CONNECTIONS = 20
PACE = 500
"""Messages per second: most of them are still to be sent when the disk is full, however fast the machine."""


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65_536)


@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
def test_a_full_disk_in_mid_delivery_costs_no_mail(
    small_disk: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = small_disk(250)
    mailcaster = {"name": "m1", "min_job_size": 2999, "max_job_size": 3000, "connections": CONNECTIONS}
    with (
        EmbeddedServer.hold(disk) as server,
        site_with_sink(
            tmp_path,
            server.url,
            monkeypatch,
            contacts=CONTACTS,
            mailcasters=[mailcaster],
            relay={"limits": {"per_second": PACE}},
        ) as (inst, sink),
        ThreadPoolExecutor(1) as executor,
    ):
        release_id = released(inst)
        shift = executor.submit(run_shift, inst, "m1", stop=threading.Event())
        wait_for_results(inst, CONTACTS // 10)
        ballast = disk / "ballast"
        _fill(ballast)
        with pytest.raises(DatabaseUnavailable) as raised:
            shift.result(timeout=120)
        ballast.unlink()
        server.ensure_running()
        assert state(inst, release_id)[0] is MailJobState.P_ASSIGNED
        assert run_shift(at_full_speed(inst), "m1", stop=threading.Event()).mail_jobs == 1
        assert tally(inst, release_id).accepted == CONTACTS
        got = sink.tally()
    assert "@example.net" not in str(raised.value)
    assert set(got) == addresses(CONTACTS)
    assert sum(got.values()) - CONTACTS <= CONNECTIONS

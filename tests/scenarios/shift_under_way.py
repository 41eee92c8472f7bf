"""A mailcaster in the midst of its work: its shift runs in a thread, so that a test can do something meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mail_orchestration.installation import Installation
from mail_orchestration.mailcaster import ShiftSummary, run_shift
from tests.scenarios.installations import released, site_with_sink, tally, wait_for_results
from tests.scenarios.relays.postfix_sink import Sink


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    """An installation whose `m1` is at work."""

    inst: Installation
    sink: Sink
    release_id: int
    contacts: int
    shift: Future[ShiftSummary]


@contextmanager
def shift_under_way(
    folder: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    sink_options: Sequence[str] = ("-w", "1"),
    contacts: int = 600,
    connections: int = 100,
    results: int = 1,
    **site: Any,
) -> Iterator[UnderWay]:
    """The letter is released to so many contacts, and a shift of `m1` has so many durable results.

    Its sink pauses for a second in each message, so that most of them are left to be sent then.
    """
    with (
        site_with_sink(
            folder,
            database_url,
            monkeypatch,
            sink_options=sink_options,
            contacts=contacts,
            mailcasters=[{"name": "m1", "connections": connections}],
            **site,
        ) as (inst, sink),
        ThreadPoolExecutor(1) as executor,
    ):
        release_id = released(inst)
        shift = executor.submit(run_shift, inst, "m1", stop=threading.Event())
        wait_for_results(inst, results)
        yield UnderWay(inst=inst, sink=sink, release_id=release_id, contacts=contacts, shift=shift)


def the_rest_goes_once(before: UnderWay, inst: Installation, quick: Sink) -> None:
    """Another shift of `m1`, at another sink, sends what the first one did not, and nothing twice."""
    run_shift(inst, "m1", stop=threading.Event())
    assert tally(inst, before.release_id).accepted == before.contacts
    assert sum(quick.tally().values()) == before.contacts - before.shift.result().messages
    assert max(quick.tally().values()) == 1

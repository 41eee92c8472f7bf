"""A hold stops what a mailcaster has in hand within seconds; lifted, everybody gets the mail once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from mail_orchestration import control, holding
from mail_orchestration.control import Scope
from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import claim_next
from mail_orchestration.mailcaster import claiming, has_work, run_shift
from tests.scenarios.installations import released, site_with_sink, tally
from tests.scenarios.shift_under_way import shift_under_way, the_rest_goes_once


@pytest.mark.rule("5.8")
def test_a_hold_stops_a_shift_and_nothing_is_repeated(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shift_under_way(tmp_path, database_url, monkeypatch, results=100) as at_work:
        inst = at_work.inst
        held = holding.hold(inst, "the relay is being moved", wait_s=60)
        summary = at_work.shift.result(timeout=60)
        assert [each.reason for each in held.holds] == ["the relay is being moved"]
        assert summary.ended_because == "held"
        assert summary.messages < at_work.contacts
        assert sum(at_work.sink.tally().values()) == summary.messages
        assert not has_work(inst, "m1")
        assert run_shift(inst, "m1", stop=threading.Event()).messages == 0

    with site_with_sink(tmp_path, database_url, monkeypatch, contacts=at_work.contacts) as (inst, quick):
        assert [each.reason for each in holding.resume(inst).lifted] == ["the relay is being moved"]
        the_rest_goes_once(at_work, inst, quick)


@pytest.mark.rule("5.6")
@pytest.mark.rule("5.8")
@pytest.mark.parametrize("wish", ["hold", "stop"])
def test_what_is_asked_for_while_a_claim_is_made_is_seen_before_the_first_message(
    wish: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that is not committed yet is in nobody's sight: who waits for a hold sees nothing in hand, and goes."""
    with site_with_sink(tmp_path, database_url, monkeypatch, contacts=50, mailcasters=[{"name": "m1"}]) as (
        inst,
        sink,
    ):
        release_id = released(inst)

        def claimed(*arguments: Any, **named: Any) -> Claim | None:
            claim = claim_next(*arguments, **named)
            if claim is not None and wish == "hold":
                holding.hold(inst, "in this very moment")
            elif claim is not None:
                control.stop(inst, Scope(everything=True))
            return claim

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(claiming, "claim_next", claimed)
            assert run_shift(inst, "m1", stop=threading.Event()).messages == 0
        assert not sink.tally()

        if wish == "hold":
            holding.resume(inst)
        else:
            control.restart(inst, Scope(everything=True))
        run_shift(inst, "m1", stop=threading.Event())
        assert tally(inst, release_id).accepted == 50
        assert set(sink.tally().values()) == {1}

"""Outside the send window nothing is taken; when it ends, what is in hand is handed back, and goes on when it opens."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mail_orchestration.cli.commands import run
from mail_orchestration.dispatch.send_window import SendWindow
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import StateConflict
from mail_orchestration.kernel.sending_settings import DAYS, SendWindowSettings
from mail_orchestration.mailcaster import has_work, run_shift, work_on
from tests.scenarios.installations import SETTINGS, released, site_with_sink
from tests.scenarios.shift_under_way import shift_under_way, the_rest_goes_once


def on_another_day() -> dict[str, object]:
    """A window that is closed today, and at midnight too."""
    day = (datetime.now(UTC) + timedelta(days=3)).weekday()
    return {"time_zone": "UTC", "spans": [{"days": [DAYS[day]], "from": "08:00", "to": "20:00"}]}


def with_window(inst: Installation, window: dict[str, object]) -> Installation:
    section = SendWindowSettings.model_validate(window)
    return replace(inst, settings=inst.settings.model_copy(update={"send_window": section}))


@pytest.mark.rule("6.7")
def test_a_window_that_ends_stops_a_shift_and_nothing_is_repeated(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()
    monkeypatch.setattr(SendWindow, "is_open_at", lambda window, now: not is_over.is_set())
    with shift_under_way(tmp_path, database_url, monkeypatch, results=100) as at_work:
        is_over.set()
        summary = at_work.shift.result(timeout=60)
        assert summary.ended_because == "send window"
        assert 100 <= summary.messages < at_work.contacts
        assert sum(at_work.sink.tally().values()) == summary.messages

    with site_with_sink(tmp_path, database_url, monkeypatch, contacts=at_work.contacts) as (inst, quick):
        assert not has_work(inst, "m1")
        is_over.clear()
        assert has_work(inst, "m1"), "what is in hand was handed back: nobody waits for the hang time"
        the_rest_goes_once(at_work, inst, quick)


@pytest.mark.rule("6.7")
def test_outside_the_window_nothing_is_taken_and_it_is_said_until_when(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with site_with_sink(tmp_path, database_url, monkeypatch, contacts=50) as (inst, sink):
        mail_job_id = released(inst)
        closed = with_window(inst, on_another_day())
        assert not has_work(closed, "m1")
        assert run_shift(closed, "m1", stop=threading.Event()).ended_because == "send window"
        with pytest.raises(StateConflict, match=r"outside the send window, which opens .* 08:00 UTC"):
            work_on(closed, "m1", mail_job_id, threading.Event())
        assert not sink.tally()

        settings = tmp_path / SETTINGS
        settings.write_text(f"{settings.read_text()}send_window: {json.dumps(on_another_day())}\n")
        assert run(["status", "-s", str(settings), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["send_window"].startswith("outside the send window, ")
        assert run(["mailcaster", "run", "m1", "-s", str(settings)]) == 0
        assert "nothing is sent: outside the send window, which opens " in capsys.readouterr().err

        assert run_shift(inst, "m1", stop=threading.Event()).messages == 50

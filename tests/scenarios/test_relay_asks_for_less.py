"""A relay that has had enough for a while: the rate goes down, comes back, it can be read why, and nothing is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mail_orchestration.cli.commands import run
from mail_orchestration.dispatch.loose_mail_lists import count_loose_mails
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.loose_mail_states import LooseMailState
from tests.scenarios.installations import (
    SETTINGS,
    addresses,
    opened,
    released,
    start_mailcaster,
    tally,
    wait_for_results,
    write_site,
)
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.relays.scripted import Script, ScriptedRelay

CONTACTS = 600
ROUND_S = 0.25


def told(inst: Installation, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `throttle` says of the one relay."""
    capsys.readouterr()
    assert run(["throttle", "--json", "-s", str(inst.settings.folder / SETTINGS)]) == 0
    document = json.loads(capsys.readouterr().out)
    [relay] = [each for each in document["throttles"] if each["scope"] == "relay"]
    found: dict[str, Any] = relay
    return found


def until(found: Callable[[], bool]) -> None:
    for _ in range(3000):
        if found():
            return
        time.sleep(0.02)
    raise TimeoutError


def is_cut_to(share: float, back_off: dict[str, float] | None) -> bool:
    return back_off is not None and back_off["rate"] <= share * back_off["full_rate"]


def mails_begun(server: ScriptedRelay, from_: float, to: float) -> int:
    return sum(from_ <= moment < to for moment, command in list(server.heard) if command.startswith("MAIL"))


@pytest.mark.rule("6.7")
@pytest.mark.rule("6.4")
@pytest.mark.parametrize(
    ("trouble", "share"),
    # After 421 the relay is left alone for a second and more, in which it does not complain again.
    [("421 4.7.0 you are too fast", 1.0), ("451 4.7.1 you are too fast", 0.3)],
    ids=["421", "451"],
)
def test_the_rate_goes_down_and_comes_back(
    trouble: str,
    share: float,
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet = [
        {"name": name, "connections": 4, "max_job_size": 200, "min_job_size": 100} for name in ("a", "b")
    ]
    with relay_beside(Script(reply_delay_s=0.004)) as server:
        settings = write_site(
            tmp_path,
            relay_port=server.port,
            contacts=CONTACTS,
            mailcasters=fleet,
            dispatcher={"back_off_round_seconds": ROUND_S},
        )
        with opened(settings, database_url, monkeypatch) as inst:
            release_id = released(inst)
            processes = [start_mailcaster(inst, name) for name in ("a", "b")]
            wait_for_results(inst, 150)
            began = time.monotonic()
            server.script.at_mail = trouble
            until(lambda: is_cut_to(share, told(inst, capsys)["back_off"]))
            server.script.at_mail = None
            over = time.monotonic()
            slow = told(inst, capsys)["back_off"]
            assert slow["reason"] == trouble
            assert share > 0.5 or slow["since"] < slow["cut_at"], "it was cut more than once"
            wait_for_results(inst, CONTACTS)
            assert [process.wait(timeout=120) for process in processes] == [0, 0]
            assert mails_begun(server, over, over + 0.3) < 0.7 * mails_begun(server, began - 0.3, began)
            until(lambda: told(inst, capsys)["back_off"] is None)

            found = tally(inst, release_id)
            assert found.accepted + found.deferred == CONTACTS
            with inst.database.begin() as connection:
                waiting = count_loose_mails(connection, inst.installation_id)
            assert (
                sum(each.mails for each in waiting if each.state is LooseMailState.SCHEDULED)
                == found.deferred
            )
    assert set(server.accepted) <= addresses(CONTACTS)
    assert server.accepted.total() == len(server.accepted) == found.accepted


@pytest.mark.rule("6.7", "6.4")
def test_a_relay_that_greets_with_421_is_sent_less_and_asked_less_often(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble = "421 4.7.0 too many sessions"
    with relay_beside(Script(greeting=trouble)) as server:
        settings = write_site(
            tmp_path,
            relay_port=server.port,
            contacts=30,
            mailcasters=[{"name": "m1", "connections": 10}],
            dispatcher={"back_off_round_seconds": ROUND_S},
        )
        with opened(settings, database_url, monkeypatch) as inst:
            release_id = released(inst)
            process = start_mailcaster(inst)
            until(lambda: told(inst, capsys)["back_off"] is not None)
            slow = told(inst, capsys)["back_off"]
            assert slow["reason"] == trouble
            assert slow["rate"] < slow["full_rate"]
            until(lambda: server.sessions > 10)
            # The ten that came at once are one failure; after that one tries, after a second, after two, …
            assert server.sessions <= 15
            server.script.greeting = "220 welcome"
            assert process.wait(timeout=120) == 0
            assert tally(inst, release_id).accepted == 30
    assert server.accepted == dict.fromkeys(addresses(30), 1)


@pytest.mark.rule("6.7")
def test_four_mailcasters_never_hold_more_connections_than_the_relay_allows(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: Sequence[str] = ("a", "b", "c", "d")
    fleet = [{"name": name, "connections": 6, "max_job_size": 60, "min_job_size": 30} for name in names]
    with relay_beside(Script(reply_delay_s=0.01)) as server:
        settings = write_site(
            tmp_path,
            relay_port=server.port,
            contacts=400,
            mailcasters=fleet,
            relay={"connections": 6},
        )
        with opened(settings, database_url, monkeypatch) as inst:
            release_id = released(inst)
            processes = [start_mailcaster(inst, name) for name in names]
            assert [process.wait(timeout=120) for process in processes] == [0] * 4
            assert tally(inst, release_id).accepted == 400
    assert server.most_sessions <= 6
    assert server.most_sessions >= 5, "and they use them"
    assert set(server.accepted.values()) == {1}

"""What a scenario file may say: every fault with file, line and key; what it leaves out comes from the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.simulation import Scenario, read_scenario, scenario_of
from mail_orchestration.simulation.rates import read_rates

SETTINGS = Settings.model_validate(
    {
        "time_zone": "Europe/Berlin",
        "relays": [{"name": "one", "host": "192.0.2.1", "port": 2525, "limits": {"per_hour": 500}}],
        "mailcasters": [{"name": "m1", "connections": 7, "relays": ["one"]}],
        "domains": [{"name": "slow.example", "limits": {"per_minute": 60}}],
        "send_window": {"spans": [{"from": "08:00", "to": "20:00"}]},
        "dispatcher": {"max_attempts": 3},
    }
)
GOOD = "relays:\n  - {name: one}\nmailcasters:\n  - {name: m1}\n"


def read(tmp_path: Path, text: str, base: Settings | None = None) -> Scenario:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    return read_scenario(file, base=scenario_of(base) if base else {})


def test_what_the_settings_say_is_not_said_again(tmp_path: Path) -> None:
    found = read(tmp_path, "recipients: 1_000\n".replace("_", ""), SETTINGS)
    assert found.recipients == (1000,)
    assert (found.relays[0].name, found.relays[0].limits.per_hour) == ("one", 500)
    assert (found.mailcasters[0].connections, found.mailcasters[0].count) == (7, 1)
    assert found.domains[0].limits.per_minute == 60
    assert found.send_window == SETTINGS.send_window
    assert (found.time_zone, found.dispatcher.max_attempts) == ("Europe/Berlin", 3)


def test_a_list_takes_the_place_of_the_settings_and_a_mapping_is_laid_over_them(tmp_path: Path) -> None:
    text = (
        "recipients: [10, 20]\n"
        "relays: [{name: two, reply_milliseconds: 50}]\n"
        "mailcasters: [{name: m, count: 9}]\n"
        "dispatcher: {retry_after_minutes: 5}\n"
    )
    found = read(tmp_path, text, SETTINGS)
    assert [relay.name for relay in found.relays] == ["two"]
    assert found.mailcasters[0].count == 9
    assert (found.dispatcher.max_attempts, found.dispatcher.retry_after_minutes) == (3, 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipents: 5\n" + GOOD, "plan.yaml:1: recipents: unknown key; did you mean 'recipients'?"),
        ("recipients: 0\n" + GOOD, "plan.yaml:1: recipients"),
        ("recipients: many\n" + GOOD, "plan.yaml:1: recipients"),
        (GOOD + "rates: {reply_milliseconds: -1}\n", "plan.yaml:5: rates.reply_milliseconds: "),
        (GOOD + "rates:\n  replies: 1\n", "plan.yaml:6: rates.replies: unknown key"),
        (
            GOOD + "mix:\n  - {domain: a.example, share: 0.5}\n  - {domain: '*', share: 0.4}\n",
            "plan.yaml:5: mix: the shares add up to 0.9, and not to 1",
        ),
        (
            GOOD + "mix: [{domain: a.example, share: 0.5}, {domain: a.example, share: 0.5}]\n",
            "plan.yaml:5: mix: names a.example twice",
        ),
        (
            GOOD + "failures: {rejected: 0.6, deferred: 0.6}\n",
            "plan.yaml:5: failures: rejected and deferred are more than 1 together",
        ),
        (GOOD + "failures: {rejected: 1.1}\n", "plan.yaml:5: failures.rejected: "),
        (
            "relays: [{name: one}]\nmailcasters: [{name: m1, relays: [on]}]\n",
            "mailcasters: m1: there is no relay named 'on'; did you mean 'one'?",
        ),
        ("relays: [{name: one}, {name: one}]\n", "relays: two are named 'one'"),
        ("relays: [{name: one, limits: {per_second: -1}}]\n", "plan.yaml:1: relays[0].limits.per_second: "),
        ("relays: [{name: one}]\n", "mailcasters: neither the scenario nor the settings name any"),
        ("recipients: 5\n", "relays: neither the scenario nor the settings name any"),
        (GOOD + "time_zone: Europe/Atlantis\n", "plan.yaml:5: time_zone: there is no time zone"),
        (GOOD + "begins_at: tomorrow\n", "plan.yaml:5: begins_at: "),
        (GOOD + "hosts: {count: 0}\n", "plan.yaml:5: hosts.count: "),
        (
            GOOD + "send_window: {spans: [{from: '08:00', to: '08:00'}]}\n",
            "plan.yaml:5: send_window.spans[0]: ",
        ),
        (GOOD + "recipients: 5\nrecipients: 6\n", "plan.yaml:6: recipients: stands twice"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput) as fault:
        read(tmp_path, text)
    assert said in str(fault.value)
    assert str(tmp_path / "plan.yaml") in str(fault.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.yaml: cannot be read: No such file"):
        read_scenario(tmp_path / "nowhere.yaml", base={})
    with pytest.raises(BadInput, match=r"nowhere\.yaml: cannot be read"):
        read_rates(tmp_path / "nowhere.yaml")

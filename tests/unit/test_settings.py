"""The settings file: defaults, and faults that name file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.frequency import Policy, Rule, Window
from mail_orchestration.kernel.relay_settings import RelaySettings
from mail_orchestration.kernel.settings import load_settings


def written(folder: Path, text: str) -> Path:
    path = folder / "mail_orchestration.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.rule("4.2")
def test_the_defaults_are_those_of_the_rules() -> None:
    parameters = MailcasterParameters(name="m")
    assert parameters.model_dump(exclude={"name", "relays", "installations"}) == {
        "small_audience_threshold": 100,
        "small_job_only": False,
        "large_job_only": False,
        "min_job_size": 2000,
        "max_job_size": 10_000,
        "percentage_job_size": 3,
        "recovery_string_update_frequency": 100,
        "automatic_mail_job_recovery": True,
        "job_recovery_expire_in_hours": 96,
        "connections": 20,
    }


@pytest.mark.rule("5.2")
@pytest.mark.rule("3.1")
@pytest.mark.rule("3.7")
def test_the_dispatchers_defaults_are_those_of_the_rules(tmp_path: Path) -> None:
    dispatcher = load_settings(written(tmp_path, "installation: main\n")).dispatcher
    assert dispatcher.small_audience_threshold == 100
    assert dispatcher.heartbeat_seconds == 10
    assert dispatcher.hang_after_seconds == 2 * 3600
    assert dispatcher.relay_unreachable_after_seconds == 15 * 60


@pytest.mark.rule("5.2")
@pytest.mark.parametrize(
    ("given", "heartbeat_s"), [("hang_after_seconds: 6", 1.5), ("hang_after_seconds: 600", 10)]
)
def test_a_short_hang_time_alone_brings_its_heartbeats(
    tmp_path: Path, given: str, heartbeat_s: float
) -> None:
    dispatcher = load_settings(written(tmp_path, f"dispatcher: {{{given}}}\n")).dispatcher
    assert dispatcher.heartbeat_seconds == heartbeat_s


@pytest.mark.rule("4.2")
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("small_audience_threshold", 0),
        ("min_job_size", 0),
        ("max_job_size", 0),
        ("percentage_job_size", 0),
        ("percentage_job_size", -1),
        ("percentage_job_size", 101),
        ("recovery_string_update_frequency", 0),
        ("job_recovery_expire_in_hours", 0),
        ("connections", 0),
        ("small_job_only", "perhaps"),
        ("no_such_parameter", 1),
    ],
)
def test_a_wrong_value_is_refused_with_the_parameters_name(
    tmp_path: Path, parameter: str, value: object
) -> None:
    path = written(tmp_path, f"mailcasters:\n  - name: m\n    {parameter}: {value}\n")
    with pytest.raises(BadSettings, match=rf"mail_orchestration\.yaml:3: mailcasters\[0\]\.{parameter}: "):
        load_settings(path)


@pytest.mark.rule("4.2")
def test_min_must_be_smaller_than_max(tmp_path: Path) -> None:
    path = written(tmp_path, "mailcasters:\n  - {name: m, min_job_size: 500, max_job_size: 500}\n")
    with pytest.raises(BadSettings, match=r"mailcasters\[0\]: .*min_job_size \(500\) must be smaller than"):
        load_settings(path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("time_zone: Mars/Base\n", r":1: time_zone: there is no time zone named 'Mars/Base'"),
        ("relayz: []\n", r":1: relayz: unknown key; did you mean 'relays'\?"),
        ("relays: [{name: a, host: h, port: 70000}]\n", r":1: relays\[0\]\.port: "),
        ("relays: [{name: a, host: h, tls: maybe}]\n", r":1: relays\[0\]\.tls: "),
        ("relays: [{name: a, host: h, username: u}]\n", r"relays\[0\]: username and password_env"),
        ("relays: [{name: a, host: h}, {name: a, host: i}]\n", r"relays: two are named 'a'"),
        ("mailcasters: [{name: m, relays: [b]}]\n", r"mailcaster m: there is no relay named 'b'"),
        ("audiences: [{name: a, csv: x.csv, sql: SELECT 1}]\n", r"one source, not csv and sql"),
        ("fetch_allowed_networks: [everywhere]\n", r":1: fetch_allowed_networks\[0\]"),
        ("time_zone: Europe\n", r":1: time_zone: there is no time zone named 'Europe'"),
        ("public_base_url: https://ü.example\n", r":1: public_base_url: must be like"),
        ("public_base_url: https://x.example/<a>\n", r":1: public_base_url: must be like"),
        ('public_base_url: "https://x.example/\\r\\nBcc: a"\n', r":1: public_base_url: must be like"),
        ('relays: [{name: a, host: "h\\r\\nMAIL"}]\n', r":1: relays\[0\]\.host: must be a host's name"),
        ('relays: [{name: a, host: h, helo_name: "h\\nMAIL"}]\n', r":1: relays\[0\]\.helo_name: must be"),
        ("dispatcher: {hang_after_seconds: inf}\n", r":1: dispatcher\.hang_after_seconds: "),
        (
            "dispatcher: {hang_after_seconds: 15, heartbeat_seconds: 10}\n",
            r"dispatcher: hang_after_seconds \(15\) must be at least twice",
        ),
        ("retention: {history_days: 0}\n", r":1: retention\.history_days: "),
        ("retention: {messages_days: 6}\n", r":1: retention\.messages_days: "),
        ("retention: {daily_log_days: 90}\n", r":1: retention\.daily_log_days: "),
        (
            "retention: {results_days: 60}\n",
            r"retention: messages_days \(90\) must not be more than results_days",
        ),
        (
            "retention: {results_days: 2000}\n",
            r"retention: results_days \(2000\) must not be more than records_days \(1100\)",
        ),
        ("relays: ours\n", r":1: relays: should be a list$"),
        ("relays: [ours]\n", r":1: relays\[0\]: should be a mapping of keys and values$"),
        ("dispatcher: 5\n", r":1: dispatcher: should be a mapping of keys and values$"),
        ("installation: [\n", r"mail_orchestration\.yaml:\d: "),
    ],
)
def test_faults_name_file_line_and_key(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(BadSettings, match=fault):
        load_settings(written(tmp_path, text))


@pytest.mark.rule("8.1")
def test_a_list_whose_only_item_is_wrong_is_not_called_too_short(tmp_path: Path) -> None:
    path = tmp_path / "mail_orchestration.yaml"
    path.write_text('send_window: {spans: [{from: "09:00", to: "09:00"}]}', encoding="utf-8")
    with pytest.raises(BadSettings) as raised:
        load_settings(path)
    assert str(raised.value) == (
        f"{path}:1: send_window.spans[0]: from and to are the same: a whole day is from 00:00 to 24:00"
    )


def test_the_frequency_policy_is_off_and_then_what_the_section_says(tmp_path: Path) -> None:
    off = load_settings(written(tmp_path, "installation: main\n")).frequency
    assert off.policy is None
    assert (off.window, off.queue, off.count, off.shelf_life_days) == (Window.ROLLING, True, True, 7)
    text = """
frequency:
  enabled: true
  window: calendar
  queue: false
  rules:
    - {max_mails: 3, days: 7}
    - {max_mails: 8, days: 30, active: false}
    - {max_mails: 1, days: 1}
"""
    assert load_settings(written(tmp_path, text)).frequency.policy == Policy(
        rules=(Rule(1, 1), Rule(3, 7)), window=Window.CALENDAR, hold=False, count=True, shelf_life_days=7
    )


_RULES = "frequency:\n  enabled: true\n  rules:\n    - {max_mails: 1, days: 7}\n"


@pytest.mark.rule("8.1")
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("frequency: {enabled: true}\n", r":1: frequency: it is enabled, and no rule is active$"),
        (
            "\nfrequency: {enabled: true, rules: [{max_mails: 1, days: 1, active: false}]}\n",
            r":2: frequency: it is enabled, and no rule is active$",
        ),
        (_RULES + "    - {max_mails: 1, days: 366}\n", r":5: frequency\.rules\[1\]\.days: "),
        (_RULES + "    - {max_mails: 1, days: 0}\n", r":5: frequency\.rules\[1\]\.days: "),
        (_RULES + "    - {max_mails: 0, days: 30}\n", r":5: frequency\.rules\[1\]\.max_mails: "),
        (_RULES + "    - {max_mails: 1.0, days: 30}\n", r":5: frequency\.rules\[1\]\.max_mails: "),
        (_RULES + "    - {max_mails: 1, day: 30}\n", r":5: frequency\.rules\[1\]\.day: .*mean 'days'"),
        (
            _RULES + "    - {max_mails: 10, days: 30, active: false}\n",
            r":3: frequency\.rules: 10 in 30 days could never be reached beside 1 in 7 days",
        ),
        ("frequency: {window: weekly}\n", r":1: frequency\.window: .*'rolling' or 'calendar'"),
        ("frequency: {shelf_life_days: 0}\n", r":1: frequency\.shelf_life_days: "),
        (
            _RULES + "    - {max_mails: 9, days: 90}\nretention: {daily_log_days: 91}\n",
            r":1: frequency: rules of up to 90 days need retention\.daily_log_days of 92 or more; it is 91$",
        ),
    ],
)
def test_a_fault_of_the_frequency_policy_is_told(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(BadSettings, match=fault):
        load_settings(written(tmp_path, text))


def test_a_missing_file_is_named_with_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"no settings file .*nowhere\.yaml; make one with"):
        load_settings(tmp_path / "nowhere.yaml")


def test_paths_count_from_the_files_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "audiences: [{name: a, csv: lists/a.csv}]\ncampaigns_dir: mine\n")
    monkeypatch.chdir("/")
    settings = load_settings(path)
    assert settings.audience("a").csv == tmp_path / "lists" / "a.csv"
    assert settings.campaigns_dir == tmp_path / "mine"


@pytest.mark.rule("6.8")
def test_passwords_come_from_the_environment_or_a_file_and_are_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_variable = RelaySettings(name="a", host="h", username="u", password_env="RELAY_PASSWORD")
    with pytest.raises(BadSettings, match="relay a: password_env names RELAY_PASSWORD"):
        by_variable.password()
    monkeypatch.setenv("RELAY_PASSWORD", "open sesame")
    assert by_variable.password() == "open sesame"
    assert "sesame" not in repr(by_variable)
    file = tmp_path / "password"
    by_file = RelaySettings(name="a", host="h", username="u", password_file=file)
    with pytest.raises(BadSettings, match="relay a: password_file"):
        by_file.password()
    file.write_bytes(b"open sesam\xe9\n")
    with pytest.raises(BadSettings, match=r"relay a: password_file .*password is not UTF-8$"):
        by_file.password()
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(BadSettings, match=r"relay a: password_file .*password is empty$"):
        by_file.password()
    file.write_text("open sesame\n", encoding="utf-8")
    assert by_file.password() == "open sesame"
    with pytest.raises(ValidationError, match="not both"):
        RelaySettings(name="a", host="h", username="u", password_env="X", password_file=file)

"""`simulate` at a command line: without a database, from the settings or a scenario, with options on top."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mail_orchestration.cli.exit_codes import ExitCode
from tests.integration.cli_answers import Said, answer, said

SETTINGS = """\
relays:
  - {name: one, host: 192.0.2.1, connections: 100, limits: {per_second: 100}}
mailcasters:
  - {name: m1}
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings in the current folder; whoever asked for the database would find none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAIL_ORCHESTRATION_SETTINGS", raising=False)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
    (tmp_path / "mail_orchestration.yaml").write_text(SETTINGS)
    return tmp_path


def test_the_settings_are_enough(capsys: Said) -> None:
    (found,) = answer(capsys, "simulate", "--recipients", "10000", "--at", "2026-05-20T12:00")
    assert found["accepted"] == 10_000
    (delivery,) = [phase for phase in found["phases"] if phase["name"] == "delivery"]
    # Of a limit per second 4 % are given for lateness.
    assert delivery["seconds"] == pytest.approx(10_000 / 100 * 1.038, rel=0.01)
    assert delivery["limited_by"] == "relay one"
    assert found["begins_at"] == "2026-05-20T12:00:00+00:00"
    assert found["curve"][0]["unsent"] == 10_000
    shown = said(capsys, "simulate", "--recipients", "10000")
    assert "relay one" in shown
    assert "No rates of this installation's own machines" in shown


def test_a_scenario_stands_for_itself(site: Path, capsys: Said) -> None:
    (site / "mail_orchestration.yaml").unlink()
    plan = "recipients: [1000, 1000000000]\nrelays: [{name: a}]\nmailcasters: [{name: m, count: 3}]\n"
    (site / "plan.yaml").write_text(plan)
    small, large = answer(capsys, "simulate", "plan.yaml", "--csv", "curve.csv")
    assert (small["recipients"], large["accepted"]) == (1000, 10**9)
    with (site / "curve.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[-1]["recipients"] == rows[-1]["accepted"] == "1000000000"
    assert "1,000,000,000" in said(capsys, "simulate", "plan.yaml")


def test_options_are_laid_over_the_scenario_and_rates_are_read(site: Path, capsys: Said) -> None:
    (site / "plan.yaml").write_text("recipients: 5\nrelays: [{name: a, connections: 1}]\n")
    rates = site / ".mail_orchestration" / "simulation_rates.yaml"
    rates.parent.mkdir()
    rates.write_text("reply_milliseconds: 50\nstart_seconds: 7\n")
    options = ("--mix", "a.example=0.25,*=0.75", "--rejected", "0.1", "--no-import")
    (found,) = answer(capsys, "simulate", "plan.yaml", "--recipients", "1000", *options)
    assert (found["recipients"], found["accepted"], found["rejected"]) == (1000, 900, 100)
    seconds = {phase["name"]: phase["seconds"] for phase in found["phases"]}
    assert "import" not in seconds
    assert seconds["start"] == pytest.approx(7)
    assert seconds["delivery"] == pytest.approx(50, rel=0.02)
    rates.write_text("reply_milliseconds: 0\n")
    fault = said(capsys, "simulate", "plan.yaml", code=ExitCode.BAD_INPUT)
    assert "simulation_rates.yaml:1: reply_milliseconds: " in fault


def test_what_would_never_be_through_is_not_well(site: Path, capsys: Said) -> None:
    (site / "plan.yaml").write_text("recipients: 1000000000\nrelays: [{name: a, limits: {per_second: 20}}]\n")
    (found,) = answer(capsys, "simulate", "plan.yaml", code=ExitCode.NOT_WELL)
    assert found["finish_s"] is None
    assert found["unfinished"] > 0


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "--recipients: how many?"),
        (["--recipients", "1,x"], "--recipients: '1,x' is not whole numbers"),
        (["--recipients", "0"], "the options: recipients.0: "),
        (["--recipients", "5", "--mix", "gmail.com"], "--mix: 'gmail.com' is not DOMAIN=SHARE"),
        (["--recipients", "5", "--mix", "a.b=0.5"], "the options: mix: the shares add up to 0.5"),
        (["--recipients", "5", "--rejected", "-1"], "--rejected"),
        (["--recipients", "5", "--at", "noon"], "--at: 'noon' is no moment"),
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--recipients", "5", "--rates", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--recipients", "5", "--settings", "nowhere.yaml"], "there is no settings file"),
    ],
)
def test_bad_input_is_named(capsys: Said, arguments: list[str], fault: str) -> None:
    assert fault in " ".join(said(capsys, "simulate", *arguments, code=ExitCode.BAD_INPUT).split())

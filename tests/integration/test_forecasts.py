"""A forecast counts what waits, by domain, under the settings' limits, with the fleet as it was measured."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from mail_orchestration import campaigns
from mail_orchestration.audience.importing import ensure_installation
from mail_orchestration.broadcast import (
    assemble_release,
    dry_run,
    fill_audience,
    release_campaign,
    resolve_release,
)
from mail_orchestration.cli.commands import run
from mail_orchestration.dispatch.relay_limits import note_relay_limits
from mail_orchestration.egress.ledger import PERIODS
from mail_orchestration.forecasts import ASSUMED_PER_SECOND, ReleaseForecast, forecast_release
from mail_orchestration.holding import hold
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.settings import Settings
from tests.integration.broadcast_site import inst
from tests.scenarios.installations import execute, released, write_site

__all__ = ["inst"]


CONTACTS = 400
SPLIT = 300
"""Contacts of the first domain; the others are of the second."""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two recipient domains; nobody has started the relay."""
    write_site(tmp_path, relay_port=9, contacts=CONTACTS, mailcasters=[{"name": "m1"}, {"name": "m2"}])
    lines = (tmp_path / "everybody.csv").read_text().splitlines()
    moved = [line.replace("@example.net", "@slow.example") for line in lines[SPLIT + 1 :]]
    (tmp_path / "everybody.csv").write_text("\n".join([*lines[: SPLIT + 1], *moved]) + "\n")
    return tmp_path


def limited(inst: Installation, *, relay: dict[str, int] | None = None, **sections: object) -> Installation:
    """The same installation with limits in its settings."""
    file = inst.settings.folder / "mail_orchestration.yaml"
    document = yaml.safe_load(file.read_text()) | sections
    if relay:
        document["relays"][0]["limits"] = relay
    file.write_text(yaml.safe_dump(document))
    from dataclasses import replace

    from mail_orchestration.kernel.settings import load_settings

    return replace(inst, settings=load_settings(file))


def foresee(inst: Installation, release_id: int) -> tuple[datetime, ReleaseForecast]:
    now = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
    return now, forecast_release(inst, release_id, now=now)


def test_the_slowest_limit_decides_and_is_named(inst: Installation) -> None:
    mail_job = released(inst)
    now, found = foresee(limited(inst, relay={"per_second": 20}), mail_job)
    assert found.forecast.messages == CONTACTS
    assert found.finish_at is not None
    # 4 % of a second's limit are given for lateness.
    assert found.finish_at - now == pytest.approx(
        timedelta(seconds=CONTACTS / 20 * 1.04), abs=timedelta(seconds=0.5)
    )
    assert found.forecast.limited_by == "relay sink"

    slow = {"name": "slow.example", "limits": {"per_minute": 60}}
    now, found = foresee(limited(inst, relay={"per_second": 20}, domains=[slow]), mail_job)
    assert found.forecast.limited_by == "domain slow.example"
    through = {each.domain: each.seconds for each in found.forecast.domains}
    assert through["slow.example"] == pytest.approx(CONTACTS - SPLIT, rel=0.05)
    assert through["example.net"] == pytest.approx(SPLIT / 18.2, rel=0.1)


def test_the_fleet_is_measured_and_a_guess_is_told(
    inst: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mail_job = released(inst)
    _, found = foresee(inst, mail_job)
    assert found.mailcasters == {"m1": ASSUMED_PER_SECOND, "m2": ASSUMED_PER_SECOND}
    assert found.assumed == ("m1", "m2")
    assert not found.may_be_faster
    execute(
        inst,
        "INSERT INTO mail_job (release_id, installation_id, kind, state, mailcaster, first_message, last_message, "
        "  queued_at, started_at, ended_at, accepted) "
        "SELECT release_id, installation_id, 'small', 'FINISHED', 'm1', 1, 1000, queued_at, "
        "  CAST('2026-05-19 12:00 UTC' AS timestamptz), CAST('2026-05-19 12:00:05 UTC' AS timestamptz), 1000 "
        "FROM mail_job",
    )
    _, found = foresee(inst, mail_job)
    assert found.mailcasters == {"m1": 200.0, "m2": ASSUMED_PER_SECOND}
    assert found.assumed == ("m2",)
    assert found.forecast.limited_by == "the fleet"
    assert found.may_be_faster
    assert not foresee(limited(inst, relay={"per_second": 20}), mail_job)[1].may_be_faster
    monkeypatch.chdir(inst.settings.folder)
    execute(
        inst,
        "UPDATE mail_job SET ended_at = now(), started_at = now() - interval '5 s' WHERE ended_at IS NOT NULL",
    )
    limited(inst, relay={"per_second": 0})
    assert run(["forecast", str(mail_job)]) == 0
    assert "it may be faster" in " ".join(capsys.readouterr().out.split())


def test_what_waits_before_it_is_counted_and_what_is_paused_is_not(inst: Installation) -> None:
    first = released(inst)
    second = released(inst, again=True)
    assert foresee(inst, second)[1].ahead == CONTACTS
    assert foresee(inst, second)[1].forecast.messages == 2 * CONTACTS
    execute(inst, f"UPDATE mail_job SET state = 'STOPPED_Q' WHERE mail_job_id = {first}")
    assert foresee(inst, second)[1].ahead == 0


def test_a_send_window_that_is_closed_is_waited_for(inst: Installation) -> None:
    mail_job = released(inst)
    window = {"spans": [{"from": "14:00", "to": "15:00"}], "time_zone": "UTC"}
    now, found = foresee(limited(inst, send_window=window), mail_job)
    assert found.finish_at is not None
    assert timedelta(hours=2) < found.finish_at - now < timedelta(hours=2, minutes=1)
    assert found.forecast.limited_by == "send window"


def test_a_dry_run_brings_its_forecast_and_a_mail_job_that_is_not_there_is_told(
    inst: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mail_job = released(inst)
    tried = dry_run(inst, inst.settings.folder / "campaigns" / "letter", now=datetime.now(UTC), again=True)
    assert foresee(inst, tried.mail_job_id)[1].ahead == CONTACTS
    with pytest.raises(NotFound):
        foresee(inst, 4711)
    monkeypatch.setenv("MAIL_ORCHESTRATION_SETTINGS", str(inst.settings.folder / "mail_orchestration.yaml"))
    assert run(["forecast", str(mail_job)]) == 0
    shown = capsys.readouterr().out
    assert "it is through at" in shown
    assert all(f"{share}% after" in shown for share in (25, 50, 75, 100))
    for name in ("all", "slow.example"):
        [line] = [line for line in shown.splitlines() if line.split()[:1] == [name]]
        assert line.count(" s ") == 4, "a moment for each share"
    assert "a guess" in shown


def test_what_else_is_in_its_way_is_told(
    inst: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = inst.settings.folder / "campaigns" / "letter" / "campaign.yaml"
    times = {"starts_at": "2035-01-01T12:00:00Z", "expires_at": "2035-01-02T12:00:00+01:00"}
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | times))
    fill_audience(inst, "everybody", now=datetime(2026, 5, 20, tzinfo=UTC))
    mail_job = release_campaign(inst, file.parent, now=datetime(2026, 5, 20, tzinfo=UTC)).release_id
    campaigns.pause(inst, "letter")
    hold(inst, "the relay moves")
    now, found = foresee(inst, mail_job)
    assert found.in_its_way == (
        f"mail job {mail_job} is QUEUING: its messages are not assembled yet",
        "campaign letter is paused",
        "it does not begin before 2035-01-01 12:00:00 UTC",
        "sending is held: the relay moves",
    )
    monkeypatch.chdir(inst.settings.folder)
    assert run(["forecast", str(mail_job)]) == 0
    assert "campaign letter is paused" in capsys.readouterr().out

    resolve_release(inst, mail_job, now=now)
    assemble_release(inst, mail_job, now=now)
    slow = limited(inst, relay={"per_day": 1})
    _, found = foresee(slow, mail_job)
    assert found.finish_at is None
    assert found.in_its_way[-1] == "it expires at 2035-01-02 11:00:00 UTC, before it is through"


def throttled(inst: Installation, scope: str, name: str, *, taken: dict[int, datetime], at: datetime) -> None:
    """Of the windows in seconds all 400 messages of a quota were taken at a moment; first used at another."""
    document = {
        window * 1_000_000: {int(moment.timestamp()) * PERIODS // window: CONTACTS}
        for window, moment in taken.items()
    }
    execute(
        inst,
        "INSERT INTO throttle (scope, name, taken, first_used_at) "
        "VALUES (:scope, :name, CAST(:taken AS jsonb), CAST(:at AS timestamptz))",
        scope=scope,
        name=name,
        taken=json.dumps(document),
        at=at,
    )


@pytest.mark.rule("6.7")
def test_what_is_used_of_quotas_is_waited_for(inst: Installation) -> None:
    mail_job = released(inst)
    day = limited(inst, relay={"per_day": CONTACTS})
    now, found = foresee(day, mail_job)
    assert found.finish_at is not None
    assert found.finish_at - now < timedelta(minutes=1)
    throttled(
        inst, "relay", "127.0.0.1:9", taken={86400: now - timedelta(hours=6)}, at=now - timedelta(days=1)
    )
    now, found = foresee(day, mail_job)
    assert found.finish_at is not None
    # A day's quota is kept by a hundredth longer.
    assert found.finish_at - now == pytest.approx(timedelta(hours=18), abs=timedelta(minutes=16))
    assert found.forecast.limited_by == "relay sink"

    slow = {"name": "slow", "domains": ["slow.example"], "limits": {"per_hour": CONTACTS}}
    throttled(inst, "domain", "slow", taken={3600: now - timedelta(minutes=15)}, at=now)
    now, found = foresee(limited(inst, relay={"per_day": 0}, domains=[slow]), mail_job)
    through = {each.domain: each.seconds for each in found.forecast.domains}
    assert through["example.net"] < 60
    assert through["slow"] == pytest.approx(45 * 60, abs=60)


@pytest.mark.rule("6.7")
@pytest.mark.parametrize(
    "theirs", [{"limits": {"per_second": 4}}, {"ramp": {"messages_on_first_day": 100, "growth": 1.1}}]
)
def test_what_another_installation_allows_the_relay_is_foreseen(
    inst: Installation, theirs: dict[str, object]
) -> None:
    mail_job = released(inst)
    now, alone = foresee(inst, mail_job)
    relay = {"name": "theirs", "host": "127.0.0.1", "port": 9, **theirs}
    with inst.database.begin() as connection:
        installation_id = ensure_installation(connection, "neighbour")
        limits = Settings.model_validate({"relays": [relay]}).relay_limits()
        note_relay_limits(connection, installation_id, limits)
    _, found = foresee(inst, mail_job)
    assert alone.finish_at is not None
    assert found.finish_at is not None
    assert alone.finish_at - now < timedelta(seconds=CONTACTS / 4 - 1) <= found.finish_at - now
    assert found.forecast.limited_by == "relay sink"


@pytest.mark.rule("6.7")
def test_a_ramp_goes_on_from_the_day_that_it_is_at(inst: Installation) -> None:
    mail_job = released(inst)
    ramp = {"messages_on_first_day": 1, "growth": 2}
    file = inst.settings.folder / "mail_orchestration.yaml"
    relays = yaml.safe_load(file.read_text())["relays"]
    ramped = limited(inst, relays=[{**relays[0], "ramp": ramp}])
    now, found = foresee(ramped, mail_job)
    assert found.finish_at is not None
    assert found.finish_at - now > timedelta(days=7)
    throttled(inst, "relay", "127.0.0.1:9", taken={}, at=now - timedelta(days=9))
    now, found = foresee(ramped, mail_job)
    assert found.finish_at is not None
    # On its tenth day it may get 512.
    assert found.finish_at - now < timedelta(minutes=1)

"""What processes share through the throttle's rows: back-off, the ramp of a new relay, its connections."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.audience.importing import ensure_installation
from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.dispatch.relay_limits import note_relay_limits
from mail_orchestration.dispatch.throttles import forget_unused_domains
from mail_orchestration.egress.ports import Complaint, Held, Scope, Standing, Wish
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.settings import Settings, load_settings
from mail_orchestration.throttling import SharedThrottle

pytestmark = [pytest.mark.rule("6.7"), pytest.mark.rule("6.8")]

RELAY = Scope("relay", "mail.example:25")
DOMAIN = Scope("domain", "big.example")


def settings(installation: str = "main", **relay: object) -> Settings:
    """An installation's with one relay."""
    given = {"name": "own", "host": "Mail.example", "connections": 10, **relay}
    return Settings.model_validate({"installation": installation, "relays": [given]})


def process(database: Database, **relay: object) -> SharedThrottle:
    """What one more process that sends has."""
    return SharedThrottle(database, settings(**relay))


def opens(database: Database, theirs: Settings) -> None:
    """A process of another installation begins."""
    with database.begin() as connection:
        installation_id = ensure_installation(connection, theirs.installation)
        note_relay_limits(connection, installation_id, theirs.relay_limits())


def stand(process: SharedThrottle, held: int, *complaints: Complaint, wanted: int = 10) -> Standing:
    return asyncio.run(process.stand(complaints, {RELAY: Held(most=10, wanted=wanted, held=held)}))


def slots(process: SharedThrottle, scope: Scope, wanted: int) -> list[float]:
    """The moment from which each message may begin."""
    [found] = asyncio.run(process.take({scope: Wish(wanted, 0.5, 0.5)}, []))
    return [found.opens[message // found.weight] for message in range(found.messages)]


def change(database: Database, statement: str) -> None:
    with database.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize("scope", [RELAY, DOMAIN], ids=["relay", "domain"])
def test_all_processes_slow_down_together_and_recover(database: Database, scope: Scope) -> None:
    one, other = process(database), process(database)
    assert not stand(one, 0).is_news
    assert stand(other, 0).connections == {RELAY: 0}, "the first one has them all"
    assert not one.is_limited(scope)

    complaint = Complaint(scope=scope, reason="451 4.7.1 too fast", seen_rate=100.0)
    assert stand(one, 10, complaint).is_news
    assert stand(other, 0).is_news
    for each in (one, other):
        assert each.is_limited(scope)
        gaps = [after - before for before, after in pairwise(slots(each, scope, 1000))]
        assert min(gaps) == pytest.approx(1 / 50, rel=0.01), "half as fast, for both together"
    assert not stand(one, 10, complaint).is_news, "within the same round"
    assert slots(one, scope, 1000)

    change(database, "UPDATE throttle SET back_off_cut_at = back_off_cut_at - 3600000000")
    stand(one, 10)
    assert not one.is_limited(scope)


def test_a_new_relay_gets_more_each_day(database: Database) -> None:
    one = process(database, ramp={"messages_on_first_day": 30, "growth": 1.5})
    assert one.is_limited(RELAY)
    assert len(slots(one, RELAY, 100)) == 30
    assert slots(one, RELAY, 100) == []
    change(database, "UPDATE throttle SET first_used_at = first_used_at - interval '1 day'")
    assert len(slots(process(database, ramp={"messages_on_first_day": 30}), RELAY, 100)) == 15
    since = process(database, ramp={"messages_on_first_day": 30, "since": "2020-01-01"})
    assert len(slots(since, RELAY, 100)) == 100, "its ramp is over"


def test_connections_change_hands_and_those_of_the_silent_are_free(database: Database) -> None:
    one, other = process(database), process(database)
    assert stand(one, 0).connections == {RELAY: 10}
    assert stand(other, 0).connections == {RELAY: 0}
    assert stand(one, 10).connections == {RELAY: 5}
    assert stand(other, 0).connections == {RELAY: 0}, "they are not closed yet"
    assert stand(one, 6).connections == {RELAY: 5}
    assert stand(other, 0).connections == {RELAY: 4}
    assert stand(one, 5).connections == {RELAY: 5}
    assert stand(other, 4).connections == {RELAY: 5}

    asyncio.run(one.leave())
    assert stand(other, 5).connections == {RELAY: 10}

    change(database, "UPDATE relay_connections SET renewed_at = renewed_at - interval '29 s'")
    assert stand(one, 0).connections == {RELAY: 0}
    change(database, "UPDATE relay_connections SET renewed_at = renewed_at - interval '31 s'")
    assert stand(process(database), 0).connections == {RELAY: 10}


def test_domains_that_nobody_writes_to_are_forgotten_and_relays_are_not(database: Database) -> None:
    one = process(database)
    quiet, cut, used = (Scope("domain", f"{name}.example") for name in ("quiet", "cut", "used"))
    complaint = Complaint(scope=cut, reason="451 4.7.1 too fast", seen_rate=100.0)
    for scope in (quiet, cut, used, RELAY):
        slots(one, scope, 1)
    change(database, "UPDATE throttle SET taken_at = taken_at - interval '31 days'")
    stand(one, 0, complaint)
    slots(one, used, 1)
    with database.begin() as connection:
        assert forget_unused_domains(connection, days=30) == 1
        assert forget_unused_domains(connection, days=30) == 0
        left = connection.execute(text("SELECT name FROM throttle")).scalars()
        assert set(left) == {cut.name, used.name, RELAY.name}
    assert slots(one, quiet, 1), "it may be used again"


def test_throttle_shows_what_holds(
    database: Database,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MAIL_ORCHESTRATION_SIGNING_KEYS", "t1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "mail_orchestration.yaml"
    path.write_text(
        "relays:\n"
        "  - {name: own, host: mail.example, limits: {per_second: 20, per_hour: 1000}, connections: 10,"
        " ramp: {messages_on_first_day: 400}}\n"
        "domains:\n  - {name: outlook, domains: [outlook.com, live.com], limits: {per_minute: 300}}\n"
    )
    sender = SharedThrottle(database, load_settings(path))
    stand(sender, 0, Complaint(scope=RELAY, reason="421 4.7.0 too fast", seen_rate=15.0))
    taken = len(slots(sender, RELAY, 7))
    assert taken
    assert run(["throttle", "-s", str(path)]) == ExitCode.OK
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"mail.example:25 (own) 9.6/s 20 {taken} of 1,000 {taken} of 400, day 1 of the ramp 10 of 10" in said
    )
    assert "outlook (outlook.com, live.com) 4.8/s 300" in said
    assert "9.6 of 19.3 messages/s" in said
    assert "it said: 421 4.7.0 too fast" in said


@pytest.mark.parametrize(
    ("relay", "told"),
    [
        ("ramp: {}", r"ramp\.messages_on_first_day: is missing"),
        ("ramp: {messages_on_first_day: 0}", r"ramp\.messages_on_first_day: "),
        ("ramp: {messages_on_first_day: 5, growth: 1}", r"ramp\.growth: "),
        ("ramp: {messages_on_first_day: 5, since: monday}", r"ramp\.since: "),
    ],
)
def test_a_ramp_that_is_none_is_refused(relay: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "mail_orchestration.yaml"
    path.write_text(f"relays:\n  - name: own\n    host: mail.example\n    {relay}\n", encoding="utf-8")
    with pytest.raises(BadSettings, match=rf":4: relays\[0\]\.{told}"):
        load_settings(path)


def test_a_relay_has_one_set_of_limits_by_all_its_names(tmp_path: Path) -> None:
    path = tmp_path / "mail_orchestration.yaml"
    path.write_text(
        "relays:\n  - {name: a, host: mail.example}\n  - {name: b, host: Mail.Example, connections: 5}\n"
    )
    with pytest.raises(BadSettings, match=r"'a' and 'b' are both .*, and have different connections"):
        load_settings(path)


def test_of_two_installations_with_one_relay_the_stricter_limit_of_each_kind_holds(
    database: Database,
) -> None:
    ours = process(database, limits={"per_minute": 6000, "per_hour": 7})
    none = process(database, installation="third")
    assert stand(ours, 0).connections == {RELAY: 10}
    assert not none.is_limited(RELAY)

    limits = {"per_second": 1, "per_minute": 9000, "per_hour": 100}
    opens(database, settings("beta", name="theirs", limits=limits, connections=3))
    opens(database, settings("elsewhere", host="other.example", limits={"per_hour": 1}))
    found = stand(ours, 10)
    assert (found.is_news, found.connections) == (True, {RELAY: 3})
    assert stand(none, 0, wanted=0).is_news
    assert none.is_limited(RELAY), "who has no limit goes by theirs"
    taken = [moment for _ in range(12) for moment in slots(ours, RELAY, 5)]
    assert min(after - before for before, after in pairwise(taken)) > 0.9
    assert not stand(ours, 3).is_news

    # A limit that was raised, and an installation that is no more: nobody opened it for a month.
    opens(database, settings("beta", name="theirs", limits={"per_hour": 100}, connections=5))
    found = stand(ours, 3)
    assert (found.is_news, found.connections) == (True, {RELAY: 5})
    change(database, "UPDATE installation SET opened_at = now() - interval '31 days' WHERE name = 'beta'")
    assert stand(ours, 3).connections == {RELAY: 10}
    stand(none, 0, wanted=0)
    assert not none.is_limited(RELAY)


def test_what_another_installation_allows_less_is_shown(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MAIL_ORCHESTRATION_SIGNING_KEYS", "t1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
    monkeypatch.setenv("COLUMNS", "160")
    said = {}
    for name, relay in (
        (
            "beta",
            "{name: b, host: mail.example, limits: {per_second: 10}, ramp: {messages_on_first_day: 400}}",
        ),
        ("alpha", "{name: a, host: MAIL.example, limits: {per_second: 20, per_hour: 1000}, connections: 30}"),
        (
            "beta",
            "{name: b, host: mail.example, limits: {per_second: 10}, ramp: {messages_on_first_day: 400}}",
        ),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"installation: {name}\nrelays:\n  - {relay}\n")
        assert run(["throttle", "-s", str(path)]) == ExitCode.OK
        said[name] = " ".join(capsys.readouterr().out.split())
    held_back = "the stricter holds relay mail.example:25: {} is {} in installation {}, here {}"
    for line in (
        ("per_second", 10, "beta", 20),
        ("per_day", 400, "beta", "unlimited"),
        ("connections", 20, "beta", 30),
    ):
        assert held_back.format(*line) in said["alpha"]
    assert held_back.format("per_hour", "1,000", "alpha", "unlimited") in said["beta"]
    assert said["beta"].count("the stricter holds") == 1
    assert "mail.example:25 (a) 9.6/s 10 0 of 1,000 0 of 400 0 of 20" in said["alpha"]

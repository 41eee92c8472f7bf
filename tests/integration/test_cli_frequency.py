"""The commands about the frequency policy: what they show and do, and what they say to wrong input."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text

from mail_orchestration.broadcast import dry_run, fill_audience, release_campaign, resolve_release
from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face
from mail_orchestration.installation import Installation
from mail_orchestration.kernel import clock
from tests.integration.cli_answers import Said, answer, said
from tests.scenarios.installations import now, opened, write_site

pytestmark = [pytest.mark.rule("8.9"), pytest.mark.rule("11.3")]

Rules = list[dict[str, int]]
ONE_IN_SEVEN: Rules = [{"max_mails": 1, "days": 7}]


class Site:
    """An installation whose settings can be written anew, and its current folder."""

    def __init__(self, folder: Path) -> None:
        self.settings = write_site(folder, relay_port=9, contacts=3)
        self._document = yaml.safe_load(self.settings.read_text())

    def wishes(self, **frequency: Any) -> None:
        """The section `frequency` of the settings."""
        self.settings.write_text(yaml.safe_dump({**self._document, "frequency": frequency}))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    made = Site(tmp_path)
    made.wishes(enabled=True, rules=ONE_IN_SEVEN, shelf_life_days=3)
    return made


@pytest.fixture
def inst(site: Site, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """Everybody has a mail on its way, and another one that waits: mail jobs 1 and 2."""
    with opened(site.settings, database_url, monkeypatch) as opened_one:
        fill_audience(opened_one, "everybody", now=now())
        release(opened_one, "first")
        release(opened_one, "second")
        yield opened_one


def release(inst: Installation, occurrence: str) -> int:
    """The campaign `letter`, resolved."""
    folder = inst.settings.folder / "campaigns" / "letter"
    made = release_campaign(inst, folder, now=now(), occurrence=occurrence).release_id
    resolve_release(inst, made, now=now())
    return made


def said_of_none(capsys: Said, *words: str) -> str:
    """What a command says that ends with NOT_WELL."""
    assert run(list(words)) == ExitCode.NOT_WELL
    return capsys.readouterr().out


def answers(monkeypatch: pytest.MonkeyPatch, word: bool) -> list[str]:
    """The operator sits at a terminal, and answers every question so; the questions."""
    asked: list[str] = []

    def confirms(self: Face, question: str) -> bool:
        asked.append(question)
        return word

    monkeypatch.setattr(Face, "confirms", confirms)
    return asked


def test_the_policy_what_waits_and_why(inst: Installation, capsys: Said) -> None:
    shown = answer(capsys, "frequency")
    assert [(each["rule"], each["contacts"], each["at_limit"]) for each in shown["rules"]] == [
        (ONE_IN_SEVEN[0], 3, 3)
    ]
    assert (shown["waiting"], shown["difference"], shown["days"][-1]["waiting"]) == (3, "", 3)
    assert "at most 1 in 7 days (rolling window)" in said(capsys, "frequency")
    may_expire = "what the rule 1 in 7 days holds may expire first: it waits for shelf_life_days, 3, at most"
    assert shown["expires_first"] == may_expire
    assert may_expire in " ".join(said(capsys, "frequency").split())

    why = answer(capsys, "frequency", "why", "R1@example.net")
    assert [(each["counted"], each["is_reached"]) for each in why["rules"]] == [(1, True)]
    assert [each["mail_job_id"] for each in why["places"]] == [1]
    [held] = why["held"]
    assert (held["mail"]["mail_job_id"], held["mail"]["held_by"], held["expires_first"]) == (
        2,
        ONE_IN_SEVEN[0],
        True,
    )
    for sentence in ("r1@example.net", "on its way: mail job 1", "1 in 7 days", "expires first"):
        assert sentence in said(capsys, "frequency", "why", "r1@example.net")

    listed = answer(capsys, "frequency", "queue", "--campaign", "letter", "--limit", "2")
    assert [each["mails"] for each in listed["counts"]] == [3]
    assert [each["mail"]["address"] for each in listed["held_mails"]] == ["r1@example.net", "r2@example.net"]
    assert "--limit shows more" in said(capsys, "frequency", "queue", "--limit", "2")
    assert "r3@example.net" in said(capsys, "frequency", "queue", "--address", "r3@example.net")

    assert answer(capsys, "status")["frequency"]["held"] == 3
    assert "3 mails are held" in said(capsys, "status")
    reported = answer(capsys, "report", "2")["report"]
    assert reported["frequency"] == [{"rule": "1 in 7 days", "recipients": 3}]
    assert "frequency queue --campaign letter" in said(capsys, "report", "2")


def test_what_would_be_held_is_told_without_a_release(inst: Installation, capsys: Said) -> None:
    told = answer(capsys, "frequency", "preview", "letter", code=ExitCode.NOT_WELL)
    assert (told["held"], told["would_be_sent"], told["held_by_rule"]) == (3, 0, {"1 in 7 days": 3})
    assert "held by the frequency policy" in said_of_none(capsys, "frequency", "preview", "letter")
    assert answer(capsys, "dry-run", "letter", code=ExitCode.NOT_WELL)["held_by_rule"] == {"1 in 7 days": 3}
    again = answer(capsys, "frequency", "preview", "letter", "--occurrence", "first", code=ExitCode.NOT_WELL)
    assert (again["held"], sum(again["bypassed"].values())) == (0, 3), "they were queued that one"
    assert answer(capsys, "frequency")["waiting"] == 3, "nothing more waits than before"
    assert {each["state"] for each in answer(capsys, "mail-jobs")["mail_jobs"][:3]} == {"STOPPED"}


@pytest.mark.parametrize("days_off", [-2, 2])
def test_a_host_whose_clock_is_off_counts_for_the_databases_day(
    inst: Installation, capsys: Said, monkeypatch: pytest.MonkeyPatch, days_off: int
) -> None:
    monkeypatch.setattr(clock, "utc_now", lambda: now() + timedelta(days=days_off))
    made = answer(capsys, "release", "letter", "--now", "--occurrence", "third")
    assert made["state"] == "STOPPED", "everybody is held"
    with inst.database.begin() as connection:
        told = connection.execute(
            text(
                "SELECT abs(extract(epoch FROM r.released_at - now())) < 600, abs(r.released_on - current_date) <= 1, "
                "abs(p.counted_for - current_date) <= 1 FROM release AS r, frequency_policy AS p "
                "WHERE r.release_id = :r"
            ),
            {"r": made["mail_job_id"]},
        ).one()
    assert tuple(told) == (True, True, True)


def test_the_time_zone_stays_as_long_as_a_policy_counts_by_its_days(
    site: Site, inst: Installation, capsys: Said
) -> None:
    site.wishes(enabled=False)
    before = site.settings.read_text()
    site.settings.write_text(before.replace("frequency:", "time_zone: Asia/Tokyo\nfrequency:"))
    refused = said(capsys, "frequency", code=ExitCode.BAD_INPUT)
    assert "time_zone is Asia/Tokyo, and the frequency policy that holds counts by days of UTC" in refused
    site.settings.write_text(before)
    answer(capsys, "frequency", "disable", "--yes")
    site.settings.write_text(before.replace("frequency:", "time_zone: Asia/Tokyo\nfrequency:"))
    assert answer(capsys, "frequency")["waiting"] == 0


def test_a_preview_has_no_effects(site: Site, inst: Installation, capsys: Said) -> None:
    def rows() -> list[Any]:
        with inst.database.begin() as connection:
            return [
                connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2")).all()
                for table in ("frequency_policy", "frequency_counter", "held_mail", "closed_day")
            ]

    before = rows()
    site.wishes(enabled=True, rules=[{"max_mails": 2, "days": 7}], shelf_life_days=3)
    told = answer(capsys, "frequency", "preview", "letter", "--occurrence", "third")
    assert (told["held"], told["would_be_sent"]) == (0, 3), "by the rules that would hold"
    site.wishes(enabled=True, rules=[{"max_mails": 1, "days": 7}, {"max_mails": 2, "days": 30}])
    told = answer(capsys, "dry-run", "letter", "--occurrence", "third", code=ExitCode.NOT_WELL)
    assert told["held_by_rule"] == {"1 in 7 days": 3}
    assert rows() == before


@pytest.mark.rule("8.4")
def test_a_preview_of_a_policy_not_yet_in_force_counts_what_is_on_its_way(
    site: Site, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    site.wishes(enabled=False)
    with opened(site.settings, database_url, monkeypatch) as inst:
        fill_audience(inst, "everybody", now=now())
        release(inst, "first")
    site.wishes(enabled=True, rules=ONE_IN_SEVEN)
    told = answer(capsys, "frequency", "preview", "letter", "--occurrence", "second", code=ExitCode.NOT_WELL)
    assert (told["held"], told["would_be_sent"]) == (3, 0)
    dry = answer(capsys, "dry-run", "letter", "--occurrence", "second", code=ExitCode.NOT_WELL)
    assert dry["held_by_rule"] == {"1 in 7 days": 3}
    assert answer(capsys, "frequency")["waiting"] == 0
    answer(capsys, "release", "letter", "--now", "--occurrence", "second")
    assert answer(capsys, "frequency")["waiting"] == 3


def test_a_dry_run_may_end_before_assembly(site: Site, database_url: str, monkeypatch: Any) -> None:
    with opened(site.settings, database_url, monkeypatch) as inst:
        fill_audience(inst, "everybody", now=now())
        folder = inst.settings.folder / "campaigns" / "letter"
        found = dry_run(inst, folder, now=now(), assemble=False)
    assert (found.messages, found.assembled, found.books.unassembled) == (3, None, 3)
    assert found.books.balances


def test_held_mails_are_deleted_recovered_and_let_go(
    inst: Installation, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [
        str(each["mail"]["held_mail_id"]) for each in answer(capsys, "frequency", "queue")["held_mails"]
    ]
    assert "77" in said(capsys, "frequency", "delete", numbers[0], "77", code=ExitCode.BAD_INPUT)
    assert answer(capsys, "frequency", "delete", numbers[0])["deleted"] == 1
    assert "There is nothing to recover" in said(capsys, "frequency", "recover")
    assert answer(capsys, "frequency", "recover", "--deleted")["recovered"]["mails"] == 1

    asked = answers(monkeypatch, word=False)
    assert said(capsys, "frequency", "empty", code=ExitCode.NOT_WELL) == ""
    assert "Delete 3 held mails" in asked[0]
    assert answer(capsys, "frequency")["waiting"] == 3
    answers(monkeypatch, word=True)
    assert "deleted 3 held mails" in said(capsys, "frequency", "empty", "--campaign", "letter")
    assert "Nothing waits of campaign letter." in said(capsys, "frequency", "empty", "--campaign", "letter")
    assert "Nothing waits" in said(capsys, "frequency", "queue")
    ended = answer(capsys, "frequency", "why", "r1@example.net")["held_before"]
    assert [each["ending"] for each in ended] == ["deleted"]
    answer(capsys, "frequency", "recover", "--deleted")
    told = said(capsys, "frequency", "rescan")
    assert "No held mail may go." in told
    assert "still held: 3" in told


def test_counters_that_are_wrong_are_counted_anew(inst: Installation, capsys: Said) -> None:
    with inst.database.begin() as connection:
        connection.execute(text("UPDATE frequency_counter SET mails_1 = 1, places = 0 WHERE contact_id = 1"))
    told = " ".join(said(capsys, "frequency", "rescan", "--anew").split())
    assert "the counters of 1 contacts were wrong, and the places of 1" in told
    assert "still held: 3" in told
    again = answer(capsys, "frequency", "rescan", "--anew")
    assert again["corrected"] == {"counters": 0, "places": 0}
    assert answer(capsys, "frequency", "rescan")["corrected"] is None


@pytest.mark.rule("8.4")
def test_the_policy_is_disabled_once_the_operator_has_said_so(
    site: Site, inst: Installation, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "enable the frequency policy" in said(capsys, "frequency", "disable", code=ExitCode.CONFLICT)
    site.wishes(enabled=False, rules=ONE_IN_SEVEN)
    assert "frequency disable" in answer(capsys, "frequency")["difference"]
    assert any("frequency disable" in each for each in answer(capsys, "status")["warnings"])
    asked = answers(monkeypatch, word=False)
    said(capsys, "frequency", "disable", code=ExitCode.NOT_WELL)
    assert "3 held mails are sent at once" in asked[0]
    assert answer(capsys, "frequency")["waiting"] == 3
    told = said(capsys, "frequency", "disable", "--yes")
    assert "disabled" in told
    assert "still held: 0" in told
    assert answer(capsys, "frequency")["in_force"] is None
    assert "No frequency policy holds" in said(capsys, "frequency", "why", "r1@example.net")
    assert "nothing to disable" in said(capsys, "frequency", "disable", code=ExitCode.CONFLICT)


def test_wrong_input_is_told_in_a_sentence(inst: Installation, capsys: Said) -> None:
    for sentence, *words in (
        ("nobody of that address", "why", "nobody@example.net"),
        ("address", "why", "no address"),
        ("no such", "queue", "--campaign", "no such"),
        ("nobody of that address", "queue", "--address", "nobody@example.net"),
        ("no such", "empty", "--campaign", "no such"),
        ("-1", "delete", "-1"),
        ("greater than or equal to 1", "delete", "0"),
        ("nothing was deleted", "delete", "1", "77"),
        ("there is no campaign", "preview", "no such"),
        ("go after the command", "--json", "why", "r1@example.net"),
    ):
        told = said(capsys, "frequency", *words, code=ExitCode.BAD_INPUT)
        assert sentence in told
        assert "Traceback" not in told
    assert answer(capsys, "frequency")["waiting"] == 3


def test_a_script_is_not_asked(inst: Installation, capsys: Said) -> None:
    told = said(capsys, "frequency", "empty", code=ExitCode.BAD_INPUT)
    assert "Delete 3 held mails" in told
    assert "--yes" in told
    assert answer(capsys, "frequency", "empty", "--yes")["deleted"] == 3

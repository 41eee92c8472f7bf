"""`single-mail` and `single-mailer run` on the command line: answers and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.installation import open_installation
from tests.scenarios.installations import execute, use_database, write_site
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.relays.postfix_sink import storing_sink

pytestmark = [pytest.mark.rule("7.1"), pytest.mark.rule("7.3"), pytest.mark.rule("11.3")]

Said = pytest.CaptureFixture[str]


@pytest.fixture
def site(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAIL_ORCHESTRATION_SETTINGS", raising=False)
    use_database(database_url, monkeypatch)
    write_site(tmp_path, relay_port=9)
    return tmp_path


def answer(capsys: Said, *arguments: str, code: ExitCode = ExitCode.OK) -> Any:
    assert run(["single-mail", *arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def error(capsys: Said, *arguments: str) -> str:
    assert run(["single-mail", *arguments]) == ExitCode.BAD_INPUT
    return capsys.readouterr().err


def test_a_moment_that_cannot_be_read_costs_no_other_mail(site: Path, capsys: Said) -> None:
    good = {"to": "ann@example.com", "attributes": {"name": "Ann", "number": 1}}
    lines = [good, good | {"at": "2035-01-01T09:00"}, good | {"at": "tomorrow"}]
    (site / "mails.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sent = answer(capsys, "send", "letter", "--file", "mails.jsonl", code=ExitCode.NOT_WELL)
    assert sent["counts"] == {"queued": 1, "refused": 2}
    assert all("at: must be a moment with its offset" in each["reason"] for each in sent["mails"][1:])


def test_the_course_of_a_file_of_mails(site: Path, capsys: Said) -> None:
    good = {"to": "ann@example.com", "attributes": {"name": "Ann", "number": 1}}
    unnamed = {"to": "ben@example.com", "attributes": {"number": 2}}
    later = good | {"to": "cid@example.com", "at": "2035-01-01T00:00:00Z", "priority": None}
    lines = [good, unnamed, later, {"to": "nobody"}]
    (site / "mails.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    with storing_sink() as sink:
        write_site(site, relay_port=sink.port)
        sent = answer(capsys, "send", "letter", "--file", "mails.jsonl", code=ExitCode.NOT_WELL)
        assert sent["counts"] == {"queued": 2, "scheduled": 1, "refused": 1}
        assert [each["code"] for each in sent["mails"]] == [None, None, None, "bad_email_address"]
        assert run(["single-mailer", "run", "--json"]) == ExitCode.NOT_WELL
        done = json.loads(capsys.readouterr().out)
        assert (done["outcomes"], done["failed"], done["ended_because"]) == ({"accepted": 1}, 1, "no mails")
        assert sink.tally() == {"ann@example.com": 1}
        states = {each["address"]: each["state"] for each in answer(capsys, "list")["single_mails"]}
        assert states == {"ben@example.com": "FAILED", "cid@example.com": "SCHEDULED"}
        [group] = answer(capsys, "failures", code=ExitCode.NOT_WELL)["failures"]
        assert (group["campaign"], group["code"], group["mails"]) == ("letter", "rendering_exception", 1)
        number = str(sent["mails"][1]["loose_mail_id"])
        shown = answer(capsys, "show", number, code=ExitCode.NOT_WELL)
        assert (shown["attributes"], shown["data_base64"]) == ({"number": 2}, None)
        assert error(capsys, "show", number, "--raw").strip().endswith("it was never composed")
        write_site(site, relay_port=sink.port, html="<p>{{ number }}</p>", campaign={"subject": "Hello"})
        assert answer(capsys, "resubmit", number) == {"resubmitted": [int(number)]}
        assert run(["single-mailer", "run"]) == ExitCode.OK
        assert "1 accepted; 0 failed; ended: no mails" in capsys.readouterr().out
        assert sink.tally()["ben@example.com"] == 1
    assert answer(capsys, "failures") == {"failures": []}
    assert answer(capsys, "delete", number, code=ExitCode.NOT_WELL) == {"deleted": []}


def test_one_mail_now(site: Path, capsys: Said) -> None:
    arguments = ["send", "letter", "ann@example.com", "-a", "name=Ann", "--attributes", '{"number": 3}']
    [sent] = answer(capsys, *arguments)["mails"]
    assert sent["submission"] == "queued"
    again = answer(capsys, *arguments)
    assert again["counts"] == {"duplicate": 1}
    queued_at = datetime.fromisoformat(again["mails"][0]["queued_at"])
    assert run(["single-mail", *arguments]) == ExitCode.OK, "nothing was lost"
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith(f"It was queued before, last at {queued_at:%Y-%m-%d %H:%M:%S}: nothing is lost")
    assert run(["single-mail", *arguments, "--occurrence", "again"]) == ExitCode.OK
    assert "queued" in capsys.readouterr().out
    assert run(["single-mail", "show", str(sent["loose_mail_id"])]) == ExitCode.OK
    assert "ann@example.com" in capsys.readouterr().out


def written(*arguments: str) -> bytes:
    """What the command writes to stdout, octet by octet."""
    return subprocess.run(
        [sys.executable, "-m", "mail_orchestration.cli", "single-mail", *arguments],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout


@pytest.mark.rule("2.7", "6.5")
def test_what_a_mail_said_is_told_after_its_end_until_retention_drops_it(site: Path, capsys: Said) -> None:
    with relay_beside() as server:
        settings = write_site(site, relay_port=server.port)
        (site / "mails.jsonl").write_text(
            "\n".join(
                json.dumps({"to": to, "attributes": {"name": "Ann"} | ({"number": 1} if composed else {})})
                for to, composed in (
                    ("ann@example.com", True),
                    ("554-at-dot@example.com", True),
                    ("u@x.org", False),
                )
            )
        )
        sent = answer(capsys, "send", "letter", "--file", "mails.jsonl")["mails"]
        accepted, refused, uncomposed = (str(each["loose_mail_id"]) for each in sent)
        assert error(capsys, "show", accepted, "--raw").strip().endswith("it is not composed yet")
        assert run(["single-mailer", "run"]) == ExitCode.NOT_WELL
        capsys.readouterr()
        before = answer(capsys, "show", refused, code=ExitCode.NOT_WELL)["data_base64"]
        assert len(answer(capsys, "delete", refused, uncomposed)["deleted"]) == 2
        octets = server.data["ann@example.com"]
    shown = answer(capsys, "show", accepted)
    assert (shown["outcome"], shown["address"], shown["size"]) == ("accepted", "ann@example.com", len(octets))
    assert b64decode(shown["data_base64"]) == octets
    assert written("show", accepted, "--raw") == octets
    deleted = answer(capsys, "show", refused)
    assert (deleted["outcome"], deleted["data_base64"]) == ("rejected", before)
    never = "it was never composed"
    assert error(capsys, "show", uncomposed, "--raw").strip().endswith(never)

    with open_installation(settings, application_name="tests") as inst:
        execute(inst, "TRUNCATE loose_mail_message")
    dropped = f"its message ({len(octets):,} octets) was dropped: messages are kept for 90 days"
    assert dropped in " ".join(error(capsys, "show", accepted, "--raw").split())
    shown = answer(capsys, "show", accepted)
    assert (shown["data_base64"], shown["is_message_dropped"]) == (None, True)
    for number, said in (accepted, dropped), (uncomposed, never):
        assert run(["single-mail", "show", number]) == ExitCode.OK
        assert said in " ".join(capsys.readouterr().out.split())


def test_duplicates_among_many_are_counted_and_only_what_is_wrong_is_listed(site: Path, capsys: Said) -> None:
    good = {"to": "ann@example.com", "attributes": {"name": "Ann", "number": 1}}
    (site / "mails.jsonl").write_text("\n".join(map(json.dumps, [good, good, good])))
    assert run(["single-mail", "send", "letter", "--file", "mails.jsonl"]) == ExitCode.OK
    out = " ".join(capsys.readouterr().out.split())
    assert "2 duplicate, 1 queued" in out
    assert "2 were queued before, last at" in out
    assert "reason" not in out
    (site / "mails.jsonl").write_text("\n".join(map(json.dumps, [good, {"to": "nobody"}])))
    assert run(["single-mail", "send", "letter", "--file", "mails.jsonl"]) == ExitCode.NOT_WELL
    assert "Bad Email Address" in capsys.readouterr().out


@pytest.mark.rule("6.3")
def test_failures_show_what_the_relay_said_at_the_last_attempt(site: Path, capsys: Said) -> None:
    with relay_beside() as server:
        write_site(site, relay_port=server.port, dispatcher={"max_attempts": 1})
        answer(capsys, "send", "letter", "451-at-rcpt@example.com", "-a", "name=Ann", "-a", "number=1")
        assert run(["single-mailer", "run"]) == ExitCode.NOT_WELL
        capsys.readouterr()
    [group] = answer(capsys, "failures", code=ExitCode.NOT_WELL)["failures"]
    assert (group["description"], group["reply_code"]) == ("the most attempts were made", 451)
    assert run(["single-mail", "failures"]) == ExitCode.NOT_WELL
    told = " ".join(capsys.readouterr().out.split())
    assert f"the most attempts were made; 451 {group['enhanced_code']} {group['reply_text']}" in told


def test_mails_of_a_deleted_campaign_stay_until_it_is_brought_back(site: Path, capsys: Said) -> None:
    """There is no release of a campaign without audiences: what was deleted is resumed."""
    write_site(site, relay_port=9, campaign={"audiences": []})
    [sent] = answer(capsys, "send", "letter", "ann@example.com", "-a", "name=Ann", "-a", "number=3")["mails"]
    number = str(sent["loose_mail_id"])
    assert run(["campaign", "delete", "letter"]) == ExitCode.OK
    capsys.readouterr()
    for how in (), ("--as-frozen",):
        assert run(["single-mail", "resubmit", number, *how]) == ExitCode.NOT_WELL
        told = " ".join(capsys.readouterr().out.split())
        assert f"{number} is left as it is: campaign letter is deleted" in told
    assert run(["single-mail", "resubmit", "--all"]) == ExitCode.OK
    assert "Those of a deleted campaign stay STOPPED" in capsys.readouterr().out
    assert answer(capsys, "show", number)["state"] == "STOPPED"
    assert run(["campaign", "resume", "letter", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["entered"] == "live"
    assert run(["single-mail", "resubmit", number]) == ExitCode.OK
    assert capsys.readouterr().out.strip() == "1 single mail is resubmitted"
    assert answer(capsys, "show", number)["state"] == "QUEUED"


def test_what_was_stopped_before_its_moment_waits_for_it_after_a_resubmit(site: Path, capsys: Said) -> None:
    write_site(site, relay_port=9, campaign={"audiences": []})
    to_come = [
        "letter",
        "ann@example.com",
        "-a",
        "name=Ann",
        "-a",
        "number=3",
        "--at",
        "2035-01-01T00:00:00Z",
    ]
    number = str(answer(capsys, "send", *to_come)["mails"][0]["loose_mail_id"])
    assert run(["campaign", "delete", "letter"]) == run(["campaign", "resume", "letter"]) == ExitCode.OK
    capsys.readouterr()
    assert answer(capsys, "resubmit", number) == {"resubmitted": [int(number)]}
    shown = answer(capsys, "show", number)
    assert (shown["state"], shown["due_at"]) == ("SCHEDULED", "2035-01-01T00:00:00+00:00")


def test_each_number_that_is_left_is_told_why(site: Path, capsys: Said) -> None:
    (site / "mails.jsonl").write_text(
        "\n".join(
            json.dumps({"to": f"{name}@example.com", "attributes": {"name": name} | more})
            for name, more in (("ann", {"number": 1}), ("ben", {}), ("cid", {}))
        )
    )
    with storing_sink() as sink:
        write_site(site, relay_port=sink.port)
        sent = answer(capsys, "send", "letter", "--file", "mails.jsonl")["mails"]
        ann, ben, cid = (str(each["loose_mail_id"]) for each in sent)
        assert run(["single-mail", "resubmit", ann]) == ExitCode.NOT_WELL
        assert f"{ann} is left as it is: it is QUEUED" in " ".join(capsys.readouterr().out.split())
        assert run(["single-mailer", "run"]) == ExitCode.NOT_WELL
        capsys.readouterr()
    assert answer(capsys, "delete", cid) == {"deleted": [int(cid)]}
    assert run(["single-mail", "resubmit", ann, cid, "4711"]) == ExitCode.NOT_WELL
    told = " ".join(capsys.readouterr().out.split())
    assert "deleted campaign" not in told
    assert f"{ann} is left as it is: it has ended, accepted {cid}" in told
    assert f"{cid} is left as it is: it has ended, stopped 4711" in told
    assert "4711 is left as it is: there is no single mail 4711" in told
    assert run(["single-mail", "delete", ben, "--code", "io_exception"]) == ExitCode.NOT_WELL
    assert f"{ben} is left as it is: it did not fail for io_exception" in " ".join(
        capsys.readouterr().out.split()
    )
    assert run(["campaign", "pause", "letter"]) == ExitCode.OK
    capsys.readouterr()
    assert answer(capsys, "resubmit", ben, "--as-frozen") == {"resubmitted": [int(ben)]}
    assert answer(capsys, "show", ben)["state"] == "SCHEDULED", "not QUEUED: its campaign rests"


def test_a_shift_without_a_mail_says_why(site: Path, capsys: Said) -> None:
    assert run(["single-mailer", "run"]) == ExitCode.OK
    assert capsys.readouterr().out.strip() == "No single mail or retry is due."
    answer(capsys, "send", "letter", "ann@example.com", "-a", "name=Ann", "-a", "number=1")
    assert run(["hold"]) == ExitCode.OK
    capsys.readouterr()
    assert run(["single-mailer", "run"]) == ExitCode.OK
    assert "Nothing was sent: all sending is held." in capsys.readouterr().out


def test_of_many_that_are_not_taken_some_are_shown(site: Path, capsys: Said) -> None:
    (site / "mails.jsonl").write_text("\n".join(json.dumps({"to": f"nobody {n}"}) for n in range(25)))
    assert run(["single-mail", "send", "letter", "--file", "mails.jsonl"]) == ExitCode.NOT_WELL
    out = capsys.readouterr().out
    assert out.count("Bad Email Address") == 20
    assert "and 5 more that were not taken" in out


def test_a_time_is_told_in_utc(site: Path, capsys: Said) -> None:
    at = ["-a", "name=Ann", "-a", "number=3", "--at", "2035-03-01T09:00:00+01:00"]
    [sent] = answer(capsys, "send", "letter", "ann@example.com", *at)["mails"]
    assert sent["due_at"] == "2035-03-01T08:00:00+00:00"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", "letter"], "give an address, or --file"),
        (["send", "gone", "ann@example.com"], "there is no campaign gone"),
        (["send", "letter", "ann@example.com", "--at", "tomorrow"], "at: 'tomorrow' is no moment"),
        (["send", "letter", "ann@example.com", "-a", "name"], "--attribute must be NAME=VALUE"),
        (["send", "letter", "ann@example.com", "--attributes", "[1]"], "--attributes is no JSON object"),
        (["send", "letter", "--file", "bad.jsonl"], "bad.jsonl:2: is no JSON: Expecting property name"),
        (["send", "letter", "--file", "odd.jsonl"], "odd.jsonl:1: too: there is no such key"),
        (["list", "--state", "lost"], "there is no state lost"),
        (["resubmit"], "say which: numbers, --campaign, --code, or --all"),
        (["delete", "--code", "bad"], "there is no code bad"),
        (
            ["list", "--campaign", "lettr"],
            "there is no campaign 'lettr': nothing of it was released or submitted",
        ),
        (["failures", "--campaign", "lettr"], "there is no campaign 'lettr'"),
        (["resubmit", "--campaign", "lettr"], "there is no campaign 'lettr'"),
        (["delete", "--campaign", "lettr"], "there is no campaign 'lettr'"),
        (["show", "4711"], "there is no single mail 4711, or it is past its retention"),
    ],
)
def test_what_is_wrong_is_told(site: Path, capsys: Said, arguments: list[str], said: str) -> None:
    (site / "bad.jsonl").write_text('{"to": "a@example.com"}\n{oops')
    (site / "odd.jsonl").write_text('{"too": "a@example.com"}')
    assert said in " ".join(error(capsys, *arguments).split())

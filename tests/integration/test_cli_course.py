"""A campaign by command line alone: check, preview, test-send, release, mailcaster, report, message."""

from __future__ import annotations

import base64
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from tests.integration.cli_answers import Said, answer, said
from tests.integration.cli_site import CAMPAIGN, CONTACTS, HTML, CliSite, site

__all__ = ["site"]


@pytest.mark.rule("11.3")
def test_from_release_to_report_without_dagster(site: CliSite, capsys: Said, tmp_path: Path) -> None:
    released = answer(capsys, "release", "letter", "--now", "--key", "monday")
    number = str(released["mail_job_id"])
    assert released["state"] == "P_QUEUED"
    assert released["resolved"]["recipients"] == CONTACTS
    assert released["assembled"]["messages"] == CONTACTS
    assert answer(capsys, "release", "letter", "--key", "monday")["mail_job_id"] == released["mail_job_id"]
    assert [each["state"] for each in answer(capsys, "mail-jobs")["mail_jobs"]] == ["P_QUEUED"]

    shift = answer(capsys, "mailcaster", "run", "one")
    assert shift["messages"] == CONTACTS
    assert shift["ended_because"] == "no work"
    assert {each["state"] for each in shift["mail_jobs"]} == {"FINISHED"}

    tree = answer(capsys, "mail-jobs", number)
    assert tree["mail_job"]["state"] == "P_FINISHED"
    assert sum(each["accepted"] for each in tree["children"]) == CONTACTS - 2
    assert "P_FINISHED" in said(capsys, "mail-jobs", number)

    report = answer(
        capsys, "report", number, "--csv", str(tmp_path / "out"), "--parquet", str(tmp_path / "out")
    )
    books = report["report"]["books"]
    assert report["balances"] is True
    assert (books["accepted"], books["rejected"], books["deferred"]) == (CONTACTS - 2, 1, 1)
    assert {Path(file).suffix for file in report["written"]} == {".csv", ".parquet"}
    with next((tmp_path / "out").glob("*domains.csv")).open() as opened:
        assert [row["domain"] for row in csv.DictReader(opened)] == ["example.net"]
    assert "They balance" not in said(capsys, "report", number)

    stored = site.stored()
    assert len(stored) == CONTACTS - 2
    for address in ("r3@example.net", "r100@example.net"):
        by_address = answer(capsys, "message", number, address)
        assert base64.b64decode(by_address["data_base64"]) == stored[address]
        same = answer(capsys, "message", number, str(by_address["message_no"]))
        assert same["address"] == address
        child = str(tree["children"][0]["mail_job_id"])
        assert answer(capsys, "message", child, address)["data_base64"] == by_address["data_base64"]


@pytest.mark.rule("2.7")
def test_message_gives_the_exact_octets(site: CliSite) -> None:
    assert run(["release", "letter", "--now"]) == ExitCode.OK
    assert run(["mailcaster", "run", "one"]) == ExitCode.OK
    command = [sys.executable, "-m", "mail_orchestration.cli", "message", "1", "r7@example.net"]
    assert (
        subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == site.stored()["r7@example.net"]
    )
    assert run(["message", "1", "r7@example.net", "--output", "r7.eml"]) == ExitCode.OK
    assert (site.folder / "r7.eml").read_bytes() == site.stored()["r7@example.net"]


def test_what_another_installation_sent_is_not_there(site: CliSite, capsys: Said) -> None:
    released = answer(capsys, "release", "letter")["mail_job_id"]
    assert said(capsys, "message", str(released), str(2**31), code=ExitCode.BAD_INPUT)
    settings = site.folder / "mail_orchestration.yaml"
    settings.write_text("installation: another\n" + settings.read_text())
    for command in (["mail-jobs"], ["report"], ["message"]):
        who = ["1"] if command == ["message"] else []
        told = said(capsys, *command, str(released), *who, code=ExitCode.BAD_INPUT)
        assert f"there is no mail job {released}" in told


def test_release_step_by_step(site: CliSite, capsys: Said) -> None:
    released = answer(capsys, "release", "letter", "--priority", "7")
    number = str(released["mail_job_id"])
    assert released["state"] == "QUEUING"
    assert "not assembled" in said(capsys, "queue", number, code=ExitCode.CONFLICT)
    assert answer(capsys, "assemble", number)["assembled"]["messages"] == CONTACTS
    assert answer(capsys, "assemble", number)["assembled"]["already_done"] is True
    assert answer(capsys, "queue", number)["state"] == "P_QUEUED"
    assert answer(capsys, "mail-jobs", number)["mail_job"]["priority"] == 7
    assert "is P_QUEUED" in said(capsys, "release-again", number, code=ExitCode.CONFLICT)


@pytest.mark.rule("6.6")
def test_a_second_release_says_why_it_reaches_nobody(site: CliSite, capsys: Said) -> None:
    first = answer(capsys, "release", "letter", "--now")["mail_job_id"]
    second = answer(capsys, "release", "letter", "--now")
    assert (second["state"], second["resolved"]["bypassed"]) == ("STOPPED", {"duplicate": CONTACTS})
    assert f"by mail job {first}: restart that one" in second["reason"]
    told = " ".join(said(capsys, "release", "letter", "--now").split())
    assert "STOPPED" in told
    assert f"Nothing is sent: all {CONTACTS} were queued the same content lately." in told
    assert "release with --again to send it once more" in told
    again = answer(capsys, "release", "letter", "--now", "--again")
    assert (again["state"], again["again"], again["resolved"]["bypassed"]) == ("P_QUEUED", True, {})
    other = answer(capsys, "release", "letter", "--now", "--occurrence", "May 20")
    assert (other["state"], other["occurrence"]) == ("P_QUEUED", "May 20")
    with (site.folder / "readers.csv").open("a") as file:
        file.write("late@example.net,Late\n")
    assert run(["import"]) == ExitCode.OK
    told = " ".join(said(capsys, "release", "letter", "--now").split())
    assert f"{CONTACTS} were queued the same content lately and do not get it twice" in told


@pytest.mark.rule("2.1")
def test_preview_for_one_contact_and_for_the_sample(site: CliSite, capsys: Said) -> None:
    sample = answer(capsys, "preview", "letter")
    assert sample["subject"] == "A letter to Zoë"
    own = answer(
        capsys, "preview", "letter", "--address", "r9@example.net", "--html", "r9.html", "--text", "r9.txt"
    )
    assert own["subject"] == "A letter to Reader r9"
    assert "Dear Reader r9" in (site.folder / "r9.html").read_text()
    assert "Dear Reader r9" in (site.folder / "r9.txt").read_text()
    assert "A letter to Zoë" in said(capsys, "preview", "letter")
    assert "nobody@example.net" not in said(
        capsys, "preview", "letter", "--address", "r0@example.net", code=ExitCode.BAD_INPUT
    )


@pytest.mark.rule("2.1")
def test_test_send_reports_each_address(site: CliSite, capsys: Said) -> None:
    sent = answer(capsys, "test-send", "letter", "me@example.org", "r9@example.net")
    assert [each["outcome"] for each in sent["results"]] == ["accepted", "accepted"]
    assert set(site.stored()) == {"me@example.org", "r9@example.net"}
    refused = answer(capsys, "test-send", "letter", "gone@example.org", code=ExitCode.NOT_WELL)
    assert refused["results"][0]["enhanced_code"] == "5.1.1"
    assert answer(capsys, "mail-jobs")["mail_jobs"] == []


@pytest.mark.rule("2.1")
def test_check_finds_what_is_wrong(site: CliSite, capsys: Said) -> None:
    template = site.folder / "campaigns" / "letter" / "message.html.j2"
    assert answer(capsys, "check", "letter")["errors"] == 0
    template.write_text("<p>\n{{ nmae }}\n</p>")
    found = answer(capsys, "check", "letter", code=ExitCode.NOT_WELL)
    assert any(each["line"] == 2 and "nmae" in each["message"] for each in found["findings"])
    definition = site.folder / "campaigns" / "letter" / "campaign.yaml"
    own_rules = "frequency: {rules: [{max_mails: 1, days: 90}]}\n"
    definition.write_text(CAMPAIGN + own_rules)
    template.write_text(HTML)
    assert answer(capsys, "check", "letter")["errors"] == 0
    with (site.folder / "mail_orchestration.yaml").open("a") as settings:
        settings.write("retention: {daily_log_days: 91}\n")
    found = answer(capsys, "check", str(definition.parent), code=ExitCode.NOT_WELL)
    assert (found["errors"], found["findings"][0]["line"]) == (1, 6)
    definition.write_text(CAMPAIGN + "subjekt: twice\n")
    assert "campaign.yaml:6: subjekt" in said(capsys, "check", "letter", code=ExitCode.BAD_INPUT)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["check", "absent"], "there is no campaign absent"),
        (["release", "absent"], "there is no campaign absent"),
        (["mail-jobs", "77"], "there is no mail job 77"),
        (["mail-jobs", "--state", "RUNING"], "RUNING"),
        (["release", "letter", "--key", ""], "--key is empty"),
        (["report", "77"], "there is no mail job 77"),
        (["report", str(2**63)], "MAIL_JOB"),
        (["stop", str(2**63)], "MAIL_JOB"),
        (["message", "77", "1"], "77"),
        (["queue", "77"], "77"),
        (["mailcaster", "run", "two"], "no mailcaster named 'two'"),
        (["preview", "letter", "--address", "@"], "'@': "),
        (["test-send", "letter", "a@b"], "'a@b': "),
    ],
)
def test_bad_input_is_named(site: CliSite, capsys: Said, arguments: list[str], told: str) -> None:
    assert told in said(capsys, *arguments, code=ExitCode.BAD_INPUT)


@pytest.mark.rule("5.6")
def test_a_mailcaster_that_is_told_to_stop_finishes_what_is_in_flight(site: CliSite, capsys: Said) -> None:
    site.write_settings(limits="{per_second: 20}")
    number = answer(capsys, "release", "letter", "--now")["mail_job_id"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mail_orchestration.cli", "mailcaster", "run", "one", "--forever", "--json"],
        stdout=subprocess.PIPE,
    )
    while not any((site.relay / "new").iterdir()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate()
    assert process.returncode == ExitCode.OK
    shift = json.loads(told)
    assert shift["ended_because"] == "stopped"
    stored = len(site.stored())
    assert 0 < stored < CONTACTS
    books = answer(capsys, "report", str(number))["report"]["books"]
    assert books["accepted"] == stored
    assert books["uncertain"] == 0


def test_care(site: CliSite, capsys: Said) -> None:
    assert answer(capsys, "close-day") == {"closed": []}
    assert answer(capsys, "clean")["interrupted"] == []
    assert said(capsys, "close-day")
    assert said(capsys, "clean")

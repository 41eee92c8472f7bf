"""`dkim-key`, `dkim-record`, and what `check` says of signatures."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from mail_orchestration.cli.exit_codes import ExitCode
from tests.integration.cli_answers import Said, answer, said
from tests.scenarios.installations import write_site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with settings and the campaign `letter`, from example.org; the current folder. There is no database."""
    write_site(tmp_path, relay_port=9, campaign={"sample_contact": {"name": "Zoë", "number": 0}})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/nowhere")
    return tmp_path


def name_keys(site: Path, *selectors: str, file: str = "dkim/example.org.{}.pem") -> None:
    lines = "".join(
        f"\n  - {{domain: example.org, selector: {each}, key: {file.format(each)}}}" for each in selectors
    )
    settings = site / "mail_orchestration.yaml"
    settings.write_text(settings.read_text().partition("\ndkim:")[0] + f"\ndkim:{lines}\n", encoding="utf-8")


@pytest.mark.rule("2.6")
@pytest.mark.parametrize(("algorithm", "pieces"), [("rsa", 2), ("ed25519", 1)])
def test_a_new_key_its_record_and_the_check_that_finds_it(
    site: Path, capsys: Said, algorithm: str, pieces: int
) -> None:
    made = answer(capsys, "dkim-key", "Example.org", "s1", "--algorithm", algorithm)
    file = site / "dkim" / "example.org.s1.pem"
    assert made["file"] == str(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (made["name"], made["type"], made["algorithm"]) == ("s1._domainkey.example.org", "TXT", algorithm)
    assert made["value"].startswith(f"v=DKIM1; k={algorithm}; p=")
    assert "".join(made["strings"]) == made["value"]
    assert len(made["strings"]) == pieces
    assert max(len(each) for each in made["strings"]) <= 255
    secret = file.read_text()
    assert not any(line in json.dumps(made) for line in secret.splitlines()[1:-1])

    name_keys(site, "s1")
    (record,) = answer(capsys, "dkim-record")["records"]
    assert record == {key: value for key, value in made.items() if key != "file"}
    told = said(capsys, "dkim-record", "EXAMPLE.org", "s1")
    assert told.startswith('s1._domainkey.example.org. IN TXT ( "v=DKIM1;')
    assert told.count("\n") == 1
    assert not [each for each in answer(capsys, "check", "letter")["findings"] if "dkim" in each["message"]]

    refused = said(capsys, "dkim-key", "example.org", "s1", code=ExitCode.BAD_INPUT)
    assert "exists already and is kept" in refused
    assert file.read_text() == secret


@pytest.mark.rule("2.6")
def test_check_says_what_is_not_signed_and_which_key_others_can_read(site: Path, capsys: Said) -> None:
    def findings(campaign: str) -> list[tuple[str, str]]:
        found = answer(capsys, "check", campaign)["findings"]
        return [(each["file"], each["message"]) for each in found if "dkim" in each["message"]]

    unsigned = "dkim: no key for example.org, so messages leave unsigned unless your relay signs them"
    assert findings("letter") == [("mail_orchestration.yaml", unsigned)]
    assert findings(str(site / "campaigns" / "letter")) == [("mail_orchestration.yaml", unsigned)]
    answer(capsys, "dkim-key", "example.org", "s1", "--algorithm", "ed25519", "--file", "open.pem")
    (site / "open.pem").chmod(0o644)
    name_keys(site, "s1", file="open.pem")
    ((_, message),) = findings("letter")
    assert message == (
        f"dkim, s1 of example.org: key {site / 'open.pem'} can be read or written by every user: "
        "take that away with chmod 600"
    )


def test_a_campaign_can_be_checked_where_there_are_no_settings(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    campaign = site / "campaigns" / "letter"
    monkeypatch.chdir(campaign)
    monkeypatch.delenv("MAIL_ORCHESTRATION_SETTINGS", raising=False)
    found = answer(capsys, "check", str(campaign))["findings"]
    assert not [each for each in found if "dkim" in each["message"]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["dkim-key", "example", "s1"], "DOMAIN: must be a domain"),
        (["dkim-key", "example.org", "s_1"], "SELECTOR: must have letters"),
        (["dkim-key", "example.org", "s1", "--algorithm", "dsa"], "dsa"),
        (["dkim-key", "example.org", "s1", "--file", "mail_orchestration.yaml/x.pem"], "cannot be written"),
        (["dkim-record"], "the settings name no key"),
        (["dkim-record", "example.com", "s1"], "no key for example.com with selector s1"),
    ],
)
def test_bad_input_is_named(site: Path, capsys: Said, arguments: list[str], told: str) -> None:
    assert told in said(capsys, *arguments, code=ExitCode.BAD_INPUT)


@pytest.mark.rule("2.6")
def test_nothing_starts_with_a_key_that_cannot_be_used(site: Path, capsys: Said) -> None:
    (site / "broken.pem").write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    name_keys(site, "s1", file="broken.pem")
    told = said(capsys, "status", code=ExitCode.BAD_INPUT)
    assert f"dkim, s1 of example.org: key {site / 'broken.pem'} holds no private key" in told
    assert "c2VjcmV0" not in told

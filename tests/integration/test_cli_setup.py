"""`init`, `import` and `status`: what they make and say, and what is told when something is wrong."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from tests.scenarios.installations import use_database

Said = pytest.CaptureFixture[str]


@pytest.fixture
def site(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> Path:
    """A folder with spaces in its path that `init` has filled; the current folder."""
    folder = tmp_path / "my mail"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.delenv("MAIL_ORCHESTRATION_SIGNING_KEYS", raising=False)
    monkeypatch.delenv("MAIL_ORCHESTRATION_SETTINGS", raising=False)
    assert run(["init"]) == ExitCode.OK
    capsys.readouterr()
    return folder


def answer(capsys: Said, *arguments: str, code: ExitCode = ExitCode.OK) -> Any:
    """The JSON document that a command answers with."""
    assert run([*arguments, "--json"]) == code
    said = capsys.readouterr()
    assert said.err == ""
    return json.loads(said.out)


def test_init_makes_what_is_needed_and_keeps_what_exists(site: Path, capsys: Said) -> None:
    keys = site / ".mail_orchestration" / "signing_keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    secret = keys.read_text()
    settings = site / "mail_orchestration.yaml"
    settings.write_text(settings.read_text().replace("installation: main", "installation: mine"))
    again = answer(capsys, "init")
    assert again["made"] == []
    assert keys.read_text() == secret
    assert "installation: mine" in settings.read_text()
    assert secret.strip().partition(":")[2] not in json.dumps(again)


def test_init_makes_no_key_file_where_the_environment_has_keys(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    use_database(database_url, monkeypatch)
    made = answer(capsys, "init", str(tmp_path))
    assert made["signing_keys"] == "$MAIL_ORCHESTRATION_SIGNING_KEYS"
    assert not (tmp_path / ".mail_orchestration" / "signing_keys").exists()


def test_what_init_makes_is_well(site: Path, capsys: Said) -> None:
    checked = answer(capsys, "check", "welcome")
    (finding,) = checked["findings"]
    assert finding["message"].startswith("dkim: no key for example.com"), "which only its owner can make"
    assert checked["errors"] == 0
    imported = answer(capsys, "import")
    assert imported["audiences"]["newsletter"]["members"] == 3


@pytest.mark.rule("1.1")
@pytest.mark.rule("1.2")
def test_import_of_a_file_counts_what_it_set_aside(site: Path, capsys: Said) -> None:
    file = site / "more.csv"
    file.write_text("email,first_name\nnew@example.com,New\nnot an address,X\nNEW@example.com,Twice\n")
    done = answer(capsys, "import", "newsletter", "--file", str(file))["audiences"]["newsletter"]
    assert (done["rows_read"], done["rows_accepted"], done["rows_repeated"], done["rows_rejected"]) == (
        3,
        1,
        1,
        1,
    )
    assert sum(done["by_reason"].values()) == 1
    assert run(["import", "newsletter", "--file", str(file)]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "rejected because" in text
    assert "mail-orchestration import-rejects newsletter" in text


@pytest.mark.rule("1.1")
def test_rejected_rows_of_an_import_can_be_seen(site: Path, capsys: Said) -> None:
    file = site / "more.csv"
    file.write_text(
        "email,first_name\nnew@example.com,New\nnot [an] address\x1b[2J,X\n,Y\n", encoding="utf-8"
    )
    first = answer(capsys, "import", "newsletter", "--file", str(file))["audiences"]["newsletter"]
    told = answer(capsys, "import-rejects", "newsletter")
    assert (told["audience"], told["import_id"], told["rows_rejected"]) == (
        "newsletter",
        first["import_id"],
        2,
    )
    assert [(each["line"], each["value"], each["code"]) for each in told["rejects"]] == [
        (3, "not [an] address\x1b[2J", "bad_address"),
        (4, "", "no_address"),
    ]
    assert run(["import-rejects", "newsletter", "--limit", "1"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "not [an] address\\x1b[2J" in text, "what the file holds commands no terminal"
    assert "no_address" not in text
    assert "1 more are not shown" in text

    answer(capsys, "import")
    assert answer(capsys, "import-rejects", "newsletter")["rejects"] == [], "the latest import set none aside"
    number = str(first["import_id"])
    assert len(answer(capsys, "import-rejects", "newsletter", "--import", number)["rejects"]) == 2
    for wrong in (["nobody"], ["nobody", "--import", number], ["newsletter", "--import", "4711"]):
        assert run(["import-rejects", *wrong]) == ExitCode.BAD_INPUT
        assert f"audience named '{wrong[0]}' was done" in capsys.readouterr().err


@pytest.mark.rule("1.5")
def test_import_of_suppressions(site: Path, capsys: Said) -> None:
    file = site / "gone.csv"
    file.write_text("email\nzoe@example.com\n")
    done = answer(capsys, "import", "--suppressions", str(file), "--reason", "complaint")
    assert done["rows_suppressed"] == 1
    assert answer(capsys, "import", "--suppressions", str(file), "--reason", "complaint")["rows_already"] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["import", "newsletter", "--file", "absent.csv"], "absent.csv"),
        (["import", "nobody"], "no audience named 'nobody'"),
        (["import", "--file", "absent.csv"], "name the audience"),
        (["import", "newsletter", "--file", "mail_orchestration.yaml"], "--kind"),
        (["import", "newsletter", "--suppressions", "x.csv"], "stands alone"),
        (["import", "newsletter", "--mode", "sideways"], "sideways"),
        (
            ["import", "newsletter", "--file", "audiences/newsletter.csv", "--delimiter", "ab"],
            "--delimiter: ",
        ),
        (["import", "a b", "--file", "audiences/newsletter.csv"], "AUDIENCE: "),
        (["import", "--suppressions", "audiences/newsletter.csv", "--topic", "x"], "opted_out_of_topic"),
    ],
)
def test_bad_input_of_import_is_named(site: Path, capsys: Said, arguments: list[str], told: str) -> None:
    assert run(arguments) == ExitCode.BAD_INPUT
    assert told in capsys.readouterr().err


def test_a_wrong_key_of_the_settings_is_told_with_its_line(site: Path, capsys: Said) -> None:
    settings = site / "mail_orchestration.yaml"
    lines = settings.read_text().splitlines()
    lines.insert(4, "instalation: main")
    settings.write_text("\n".join(lines))
    assert run(["status"]) == ExitCode.BAD_INPUT
    assert "mail_orchestration.yaml:5: instalation" in capsys.readouterr().err


@pytest.mark.rule("4.2")
def test_status_shows_everything_at_a_glance(site: Path, capsys: Said) -> None:
    answer(capsys, "import")
    told = answer(capsys, "status")
    assert [each["name"] for each in told["mailcasters"]] == ["large", "quick"]
    assert [each["type"] for each in told["mailcasters"]] == ["large job priority", "small job only"]
    assert [(each["name"], each["members"]) for each in told["audiences"]] == [("newsletter", 3)]
    assert told["relays"][0]["name"] == "local"
    assert told["warnings"] == []
    settings = site / "mail_orchestration.yaml"
    text = settings.read_text()
    settings.write_text(text[: text.index("mailcasters:")] + text[text.index("dispatcher:") :])
    assert any("no mailcaster" in warning for warning in answer(capsys, "status")["warnings"])
    assert run(["status"]) == ExitCode.OK
    assert "no mailcaster" in capsys.readouterr().out


def test_status_tells_why_a_relay_cannot_be_used(site: Path, capsys: Said) -> None:
    settings = site / "mail_orchestration.yaml"
    secret = "    username: me\n    password_env: NOWHERE_TO_BE_FOUND\n"
    settings.write_text(settings.read_text().replace("port: 25\n", "port: 1\n" + secret))
    assert run(["status"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "no: Connection refused" in text
    assert "NOWHERE_TO_BE_FOUND" in text


def test_a_database_that_is_down_ends_with_3_and_shows_no_password(site: Path) -> None:
    url = "postgresql://somebody:hidden-word@127.0.0.1:9/mail?connect_timeout=2"
    done = subprocess.run(
        [sys.executable, "-m", "mail_orchestration.cli", "status", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=site,
        env={"PATH": "/usr/bin:/bin", "DATABASE_URL": url, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == ExitCode.UNAVAILABLE
    assert done.stdout == ""
    assert "hidden-word" not in done.stderr
    assert "127.0.0.1:9" in json.loads(done.stderr)["message"]

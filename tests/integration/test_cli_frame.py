"""The command line's frame: help, options, exit codes and how errors are told. No database is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mail_orchestration.cli.commands import app, run
from mail_orchestration.cli.exit_codes import MEANING, ExitCode, exit_code_of
from mail_orchestration.kernel import errors

HEAVY = {
    "sqlalchemy",
    "psycopg",
    "pydantic",
    "pandas",
    "pyarrow",
    "aiohttp",
    "jinja2",
    "matplotlib",
    "uvloop",
    "dagster",
}


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mail_orchestration.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == ExitCode.OK
    text = capsys.readouterr().out
    for command in (
        "init",
        "import",
        "check",
        "preview",
        "test-send",
        "release",
        "status",
        "mail-jobs",
        "report",
    ):
        assert f" {command} " in text
    for code in ExitCode:
        assert f"{int(code)}  {MEANING[code][:20]}" in text


@pytest.mark.rule("11.3")
def test_every_command_answers_in_json_and_names_its_settings() -> None:
    commands = list(app.registered_commands)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        commands += group.typer_instance.registered_commands
    assert len(commands) >= 18
    for command in commands:
        assert command.callback is not None
        assert {"as_json", "settings", "debug"} <= set(command.callback.__annotations__), command.name


def test_help_imports_nothing_that_only_commands_need() -> None:
    script = (
        "import sys; from mail_orchestration.cli.commands import run; run(['--help'])\n"
        f"sys.exit(' '.join(sorted({HEAVY!r} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == "\n" or done.stderr == ""


def test_usage_errors_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["relase"]) == ExitCode.BAD_INPUT
    assert "relase" in capsys.readouterr().err
    assert run(["release"]) == ExitCode.BAD_INPUT
    assert "CAMPAIGN" in capsys.readouterr().err.upper()
    assert run([]) == ExitCode.BAD_INPUT
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", [["--debug"], ["--json"], ["--settings", "x.yaml"], ["-s", "x.yaml"]])
@pytest.mark.parametrize("group", [[], ["single-mail"]])
def test_an_option_before_the_command_is_told_where_it_goes(
    capsys: pytest.CaptureFixture[str], option: list[str], group: list[str]
) -> None:
    assert run([*group, *option, "list"]) == ExitCode.BAD_INPUT
    assert "options go after the command" in capsys.readouterr().err
    assert run([*group, "--nowhere", "list"]) == ExitCode.BAD_INPUT
    assert "No such option: --nowhere" in capsys.readouterr().err


def test_errors_are_one_json_document_on_stderr(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = run(["check", str(tmp_path / "nowhere"), "--json", "--settings", str(tmp_path / "none.yaml")])
    said = capsys.readouterr()
    assert code == ExitCode.BAD_INPUT
    assert said.out == ""
    fault = json.loads(said.err)
    assert fault["exit_code"] == 2
    assert fault["error"] == "BadSettings"
    assert "none.yaml" in fault["message"]


def test_an_expected_error_shows_no_traceback_but_with_debug(tmp_path: Path) -> None:
    arguments = ("status", "--settings", str(tmp_path / "none.yaml"))
    quiet = program(*arguments)
    assert quiet.returncode == ExitCode.BAD_INPUT
    assert "Traceback" not in quiet.stderr
    assert "mail-orchestration init" in quiet.stderr
    loud = program(*arguments, "--debug")
    assert loud.returncode == ExitCode.BAD_INPUT
    assert "Traceback" in loud.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BadSettings(), ExitCode.BAD_INPUT),
        (errors.NotFound(), ExitCode.BAD_INPUT),
        (errors.DatabaseUnavailable(), ExitCode.UNAVAILABLE),
        (errors.RelayUnreachable(), ExitCode.UNAVAILABLE),
        (errors.StateConflict(), ExitCode.CONFLICT),
        (errors.ClaimLost(), ExitCode.CONFLICT),
        (errors.AssemblyFailed(), ExitCode.NOT_WELL),
        (errors.ComponentFailed(), ExitCode.NOT_WELL),
    ],
)
def test_what_the_caller_can_do_decides_the_exit_code(
    error: errors.MailOrchestrationError, code: ExitCode
) -> None:
    assert exit_code_of(error) is code


def test_a_defect_is_told_as_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(path: Path | None = None) -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr("mail_orchestration.kernel.settings.load_settings", broken)
    assert run(["check", "nowhere"]) == ExitCode.DEFECT
    assert "ZeroDivisionError: by design" in capsys.readouterr().err


def test_a_reader_that_goes_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mail_orchestration.cli", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate()
    assert b"Traceback" not in said
    assert process.returncode == ExitCode.OK


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out.strip()[0].isdigit()


def test_the_docs_name_every_command_and_exit_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for command in app.registered_commands:
        assert f"`{command.name}`" in page
    for code in ExitCode:
        assert f"| {int(code)} |" in page

"""What a command answers, as a document and to people."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode

Said = pytest.CaptureFixture[str]


def answer(capsys: Said, *arguments: str, code: ExitCode = ExitCode.OK) -> Any:
    """The JSON document that a command answers with."""
    assert run([*arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def said(capsys: Said, *arguments: str, code: ExitCode = ExitCode.OK) -> str:
    """What a command says to people."""
    assert run(list(arguments)) == code
    captured = capsys.readouterr()
    return captured.out if code is ExitCode.OK else captured.err

"""`notifications off` holds everything, beside `hold`; each is lifted by its own command."""

from __future__ import annotations

from pathlib import Path

import pytest

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.dispatch.holds import is_held
from mail_orchestration.installation import open_installation
from tests.integration.cli_answers import answer
from tests.scenarios.installations import use_database

pytestmark = pytest.mark.rule("6.7")


def test_notifications_are_switched_off_and_on(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    use_database(database_url, monkeypatch)
    (tmp_path / "mail_orchestration.yaml").write_text("installation: main\n")

    def held() -> bool:
        with open_installation(None, application_name="tests") as inst, inst.database.begin() as connection:
            return is_held(connection, inst.installation_id)

    off = answer(capsys, "notifications", "off", "--reason", "an incident")
    assert [(each["cause"], each["reason"]) for each in off["holds"]] == [("notifications", "an incident")]
    assert held()
    assert run(["status"]) == ExitCode.OK
    assert "an incident" in (said := capsys.readouterr().out)
    assert "lifted by: mail-orchestration notifications on" in " ".join(said.split())

    answer(capsys, "hold", "--reason", "the relay is being moved")
    assert answer(capsys, "notifications", "off")["holds"][0]["reason"] == "an incident", (
        "the first reason stays"
    )
    resumed = answer(capsys, "resume", code=ExitCode.NOT_WELL)
    assert [each["reason"] for each in resumed["lifted"]] == ["the relay is being moved"]
    assert [each["reason"] for each in resumed["still_held"]] == ["an incident"]
    assert held()

    on = answer(capsys, "notifications", "on")
    assert [each["reason"] for each in on["lifted"]] == ["an incident"]
    assert not on["still_held"]
    assert not held()
    assert answer(capsys, "notifications", "on")["lifted"] == []
    assert run(["notifications", "perhaps"]) == ExitCode.BAD_INPUT

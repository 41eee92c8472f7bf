"""`stop` and `restart` on the command line: scopes, answers, exit codes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.dispatch.claims import HeldClaim
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.database_clock import database_now
from tests.integration.cli_answers import Said, answer
from tests.integration.dispatch_rows import World
from tests.scenarios.installations import use_database

pytestmark = [pytest.mark.rule("5.6"), pytest.mark.rule("11.3")]

SETTINGS = """\
installation: main
relays: [{ name: none, host: 127.0.0.1, port: 9, tls: none }]
mailcasters: [{ name: one, job_recovery_expire_in_hours: 96 }]
"""


@pytest.fixture
def world(database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    use_database(database_url, monkeypatch)
    monkeypatch.delenv("MAIL_ORCHESTRATION_SETTINGS", raising=False)
    (tmp_path / "mail_orchestration.yaml").write_text(SETTINGS)
    return World(database)


def beating(world: World, mail_job_id: int, *, queued_ago: timedelta = timedelta(0)) -> None:
    """Its heart beats now, by the database's clock."""
    with world.database.begin() as connection:
        now = database_now(connection)
        connection.execute(
            text("UPDATE mail_job SET heartbeat_at = :now, queued_at = :queued WHERE mail_job_id = :id"),
            {"now": now, "queued": now - queued_ago, "id": mail_job_id},
        )


def done(capsys: Said, *arguments: str, code: ExitCode = ExitCode.OK) -> list[tuple[int, str, str]]:
    """The mail jobs that a command names, each with the state that it left and the one that it entered."""
    mail_jobs = answer(capsys, *arguments, code=code)["mail_jobs"]
    return [(each["mail_job_id"], each["left"], each["entered"]) for each in mail_jobs]


def test_one_a_campaign_and_everything(world: World, capsys: Said) -> None:
    one, other = world.queue(20, kind="small"), world.queue(20, kind="parent")
    assert done(capsys, "stop", str(one)) == [(one, "QUEUED", "STOPPED_Q")]
    assert done(capsys, "stop", str(one)) == [(one, "STOPPED_Q", "STOPPED_Q")]
    assert done(capsys, "stop", "--campaign", "spring") == [(other, "P_QUEUED", "STOPPED_Q")]
    assert done(capsys, "stop", "--all") == []
    assert done(capsys, "restart", "--campaign", "spring") == [
        (one, "STOPPED_Q", "QUEUED"),
        (other, "STOPPED_Q", "P_QUEUED"),
    ]
    assert done(capsys, "restart", "--all") == []
    assert run(["stop", "--all"]) == ExitCode.OK
    assert "STOPPED_Q" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["1", "--all"], ["--campaign", "spring", "--all"], ["1", "--campaign", "spring"]]
)
def test_exactly_one_scope_is_named(
    world: World, capsys: Said, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    for command in ("stop", "restart"):
        assert run([command, *arguments]) == ExitCode.BAD_INPUT
        assert "name one of these" in capsys.readouterr().err


def test_what_is_not_there_is_bad_input(world: World, capsys: Said) -> None:
    assert run(["stop", "4711"]) == ExitCode.BAD_INPUT
    assert run(["restart", "--campaign", "winter"]) == ExitCode.BAD_INPUT
    assert "there is no campaign 'winter'" in capsys.readouterr().err


def test_the_wait_is_for_mailcasters_to_let_go(world: World, capsys: Said) -> None:
    work = world.begun(20, kind="small")
    beating(world, work)
    with HeldClaim(world.database, world.claim_of(work)) as held:
        assert done(capsys, "stop", str(work), "--wait", "0") == [(work, "RUNNING", "STOPPING")]
        assert done(capsys, "stop", str(work), "--wait", "0.3", code=ExitCode.NOT_WELL) == [
            (work, "STOPPING", "STOPPING")
        ]
        assert done(capsys, "restart", str(work), "--wait", "0") == [(work, "STOPPING", "STOPPING")]
        with world.database.begin() as connection:
            held.let_go_stopped(database_now(connection))
    assert world.state(work) == "RECOVERING"


@pytest.mark.parametrize("kind", ["small", "parent"])
def test_what_is_handed_back_is_not_shown_as_worked_on(world: World, capsys: Said, kind: str) -> None:
    work = world.begun(20, kind=kind)
    claim = world.claim_of(work)
    shown = ["mail-jobs", str(claim.parent_id or work)]
    with HeldClaim(world.database, claim) as held:
        assert run(shown) == ExitCode.OK
        assert "by before" in capsys.readouterr().out
        held.hand_back()
    assert run(shown) == ExitCode.OK
    text = capsys.readouterr().out
    assert "RUNNING messages 1–20 (handed back: it waits to be taken up)" in text
    assert "by before" not in text
    assert run(["mail-jobs"]) == ExitCode.OK
    # The table folds its last column.
    assert ("handed back" in capsys.readouterr().out) == (kind == "small")


def test_what_cannot_go_on_is_told_by_the_exit_code(world: World, capsys: Said) -> None:
    old = world.begun(20, kind="small")
    beating(world, old, queued_ago=timedelta(hours=97))
    world.execute("UPDATE mail_job SET heartbeat_at = to_timestamp(0) WHERE mail_job_id = :id", id=old)
    world.add_messages(old, 20)
    assert done(capsys, "stop", str(old)) == [(old, "RUNNING", "STOPPED_R")]
    assert run(["restart", str(old)]) == ExitCode.NOT_WELL
    assert "queued more than 96 hours before; 20 messages expired" in capsys.readouterr().out
    assert done(capsys, "restart", str(old), code=ExitCode.CONFLICT) == [(old, "FAILED", "FAILED")]

"""The commands about loose mails: what waits, dead letters, what became of them, and what the others say of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.mailcaster import run_shift
from tests.scenarios.installations import SETTINGS, execute, opened, released, write_site
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.relays.scripted import Script

pytestmark = [pytest.mark.rule("6.3"), pytest.mark.rule("11.3")]

Cli = Callable[..., tuple[int, Any]]


@pytest.fixture
def cli(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    """A mail job whose three messages were deferred; two of them are dead letters. Runs a command, as JSON or not."""
    with relay_beside(Script(defers_first=3)) as server:
        settings = write_site(tmp_path, relay_port=server.port, contacts=3)
        with opened(settings, database_url, monkeypatch) as inst:
            released(inst)
            run_shift(inst, "m1", stop=threading.Event())
            execute(inst, "UPDATE loose_mail SET state = 'FAILED', attempts = 5 WHERE message_no > 1")

        def call(*words: str, as_json: bool = True) -> tuple[int, Any]:
            code = run([*words, "-s", str(tmp_path / SETTINGS), *(["--json"] if as_json else [])])
            told = capsys.readouterr()
            out = told.out or told.err
            return code, json.loads(out) if as_json else out

        yield call


def test_they_are_listed_resubmitted_and_deleted(cli: Cli) -> None:
    code, shown = cli("loose-mails")
    assert code == ExitCode.OK
    assert [(each["state"], each["mails"]) for each in shown["counts"]] == [("SCHEDULED", 1), ("FAILED", 2)]
    waiting, first, second = sorted(shown["loose_mails"], key=lambda each: each["attempts"])
    assert (waiting["campaign"], waiting["reply_code"], waiting["attempts"]) == ("letter", 451, 1)
    assert len(cli("loose-mails", "--state", "SCHEDULED", "--mail-job", "1")[1]["loose_mails"]) == 1
    assert cli("loose-mails", "--kind", "single", "--campaign", "letter")[1]["loose_mails"] == []

    one, two = str(first["loose_mail_id"]), str(second["loose_mail_id"])
    assert [each["loose_mail_id"] for each in cli("dead-letters")[1]["dead_letters"]] == [int(one), int(two)]
    assert cli("dead-letters", one, "--resubmit")[1]["resubmitted"] == [int(one)]
    code, shown = cli("dead-letters", one, "--delete")
    assert (code, shown["deleted"]) == (ExitCode.NOT_WELL, []), "it waits for its attempt"
    assert shown["not_found"] == [int(one)]
    assert f"no dead letter {one}" in cli("dead-letters", one, "--delete", as_json=False)[1]
    assert cli("dead-letters", "--campaign", "letter", "--delete")[1]["deleted"] == [int(two)]
    (logged,) = cli("delivery-log", "--outcome", "deferred")[1]["delivery_log"]
    assert (logged["loose_mail_id"], logged["address"]) == (int(two), second["address"])
    assert " at " in logged["deleted_by"]
    assert cli("delivery-log", "--address", "nobody@example.net")[1]["delivery_log"] == []


def test_people_can_read_it_and_the_others_tell_of_them(cli: Cli) -> None:
    for words, said in (
        (("loose-mails",), "451"),
        (("dead-letters",), "FAILED"),
        (("delivery-log",), "no such mail"),
        (("status",), "SCHEDULED"),
        (("report", "1"), "1 wait for another attempt"),
        (("report", "1"), "dead-letters"),
    ):
        code, out = cli(*words, as_json=False)
        assert code == ExitCode.OK
        assert said in out
    assert [each["mails"] for each in cli("status")[1]["loose_mails"]] == [1, 2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dead-letters", "--resubmit"), "say which ones"),
        (("dead-letters", "7", "--all", "--delete"), "say which ones"),
        (("dead-letters", "7", "--resubmit", "--delete"), "exclude each other"),
        (("loose-mails", "--campaign", "leter"), "there is no campaign 'leter'"),
        (("loose-mails", "--campaign", "leter"), "did you mean 'letter'?"),
        (("dead-letters", "--campaign", "summer"), "known are letter"),
        (("dead-letters", "--campaign", "summer", "--resubmit"), "there is no campaign 'summer'"),
        (("dead-letters", "--campaign", "summer", "--delete"), "there is no campaign 'summer'"),
        (("delivery-log", "--campaign", "summer"), "there is no campaign 'summer'"),
        (("uncertain", "1", "--settle", "accepted", "--resend"), "exclude each other"),
    ],
)
def test_what_is_not_clear_is_refused(cli: Cli, words: tuple[str, ...], said: str) -> None:
    code, shown = cli(*words)
    assert code == ExitCode.BAD_INPUT
    assert said in shown["message"]

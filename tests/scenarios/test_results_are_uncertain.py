"""The relay drops the connection after the final dot: the campaign's `on_uncertain` decides what happens next."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.egress.relay import Backoff
from mail_orchestration.feedback.daily_counts import close_day
from mail_orchestration.feedback.reports import mail_job_report
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database_clock import DatabaseClock
from mail_orchestration.kernel.model import Bypass
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift, shift
from mail_orchestration.mailcaster.repeats import Repeats
from mail_orchestration.sending.components import MessageInHand
from tests.scenarios.installations import (
    hours_pass,
    now,
    opened,
    released,
    start_mailcaster,
    state,
    tally,
    write_site,
)
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.relays.scripted import ScriptedRelay, relay_to

pytestmark = pytest.mark.rule("5.7")

ONCE = [f"once-drop-at-dot-{n}" for n in range(6)]
ALWAYS = [f"drop-at-dot-{n}" for n in range(3)]
CONNECTIONS = 5


@contextmanager
def _site(
    folder: Path,
    server: ScriptedRelay,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    locals_: Sequence[str],
    *,
    campaign: dict[str, object] | None = None,
    max_attempts: int = 5,
) -> Iterator[Installation]:
    """An installation whose shifts here make short pauses; those in processes of their own make the usual ones."""
    settings = write_site(
        folder,
        relay_port=server.port,
        campaign=campaign,
        mailcasters=[{"name": "m1", "min_job_size": 40, "max_job_size": 1000, "connections": CONNECTIONS}],
        dispatcher={"max_attempts": max_attempts},
    )
    lines = [f"{local}@example.net,Reader,{n}\n" for n, local in enumerate(locals_)]
    (folder / "everybody.csv").write_text("email,name,number\n" + "".join(lines), encoding="utf-8")
    pause = Backoff(first_s=0.005, longest_s=0.02)
    relay = relay_to(server, name="sink", wait_s=2.0, backoff=pause, connections=20)
    monkeypatch.setattr(shift, "relays_of", lambda *_: [relay])
    with opened(settings, database_url, monkeypatch) as inst:
        yield inst


def _ordinary(count: int) -> list[str]:
    return [f"r{n}" for n in range(count)]


def _at(local: str) -> str:
    return f"{local}@example.net"


@pytest.mark.rule("1.8")
@pytest.mark.rule("2.4")
@pytest.mark.rule("8.2")
def test_resend_sends_the_very_same_again_and_stops_after_the_most_attempts(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = [*ONCE, *_ordinary(40), *ALWAYS]
    with (
        relay_beside() as server,
        _site(tmp_path, server, database_url, monkeypatch, who, max_attempts=3) as inst,
    ):
        release_id = released(inst)
        summary = run_shift(inst, "m1", stop=threading.Event())
        assert state(inst, release_id)[0] is MailJobState.FINISHED
        found = tally(inst, release_id)
        assert (found.accepted, found.uncertain) == (46, 3)
        assert summary.messages == 49
        assert server.accepted == {_at(local): 1 for local in [*ONCE, *_ordinary(40)]}
        assert {len(server.received[_at(local)]) for local in ONCE} == {2}
        assert {len(server.received[_at(local)]) for local in ALWAYS} == {3}
        for copies in server.received.values():
            assert len(set(copies)) == 1, "byte for byte the same"
            assert re.search(rb"(?im)^message-id: <\S+>\r$", copies[0])

        with inst.database.begin() as connection:
            shown, report = mail_job(connection, release_id), mail_job_report(connection, release_id)
        assert (shown.accepted, shown.uncertain, shown.sent) == (46, 3, 49)
        (line,) = report.mail_jobs
        assert (line.results, line.accepted, line.uncertain) == (40 + 2 * 6 + 3 * 3, 46, 3)
        tomorrow = now() + timedelta(days=1)
        closed = close_day(inst.database, inst.installation_id, now().date(), inst.settings.zone, tomorrow)
        assert (closed.mails, closed.contacts) == (49, 49), "nobody is counted twice"


@pytest.mark.rule("5.1")
@pytest.mark.rule("5.3")
@pytest.mark.parametrize("crash_at", ["after_final_dot", "result_recorded"])
def test_what_a_killed_mailcaster_left_uncertain_is_sent_again_by_the_next(
    crash_at: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = [*_ordinary(40), *ONCE]
    with (
        relay_beside() as server,
        _site(tmp_path, server, database_url, monkeypatch, who) as inst,
    ):
        release_id = released(inst)
        with monkeypatch.context() as patch:
            # With the second of those that are sent again.
            patch.setenv("CRASH_AT", f"{crash_at}:48")
            process = start_mailcaster(inst)
        assert process.wait() == -signal.SIGKILL
        before = tally(inst, release_id)
        assert before.accepted + before.uncertain == 46
        assert 0 < before.uncertain <= 6
        hours_pass(inst, 3)
        run_shift(inst, "m1", stop=threading.Event())

        found = tally(inst, release_id)
        assert (found.accepted, found.uncertain) == (46, 0)
        assert set(server.accepted) == {_at(local) for local in who}
        assert server.accepted.total() - 46 <= CONNECTIONS
        assert all(len(set(copies)) == 1 for copies in server.received.values())
        with inst.database.begin() as connection:
            numbers = connection.execute(
                text("SELECT mail_job_id, state, accepted, uncertain FROM mail_job ORDER BY mail_job_id")
            ).all()
        (old, old_state, *_), (new, new_state, *_) = numbers
        assert (old_state, new_state) == ("RECOVERED", "FINISHED")
        assert [sum(each[column] for each in numbers) for column in (2, 3)] == [46, 0]
        with inst.database.begin() as connection:
            assert mail_job(connection, new).uncertain == 0
            report = mail_job_report(connection, release_id)
        assert [line.mail_job_id for line in report.mail_jobs] == [old, new]
        assert sum(line.accepted for line in report.mail_jobs) == 46
        assert {line.uncertain for line in report.mail_jobs} == {0}


def keep_back_what_was_tried(messages: Sequence[MessageInHand]) -> list[Bypass]:
    """A component of the stage send that lets each message pass once."""
    again = [each for each in messages if each.recipient_no in SEEN]
    SEEN.update(each.recipient_no for each in messages)
    return [Bypass(recipient_no=each.recipient_no, reason="once_is_enough") for each in again]


SEEN: set[int] = set()


@pytest.mark.rule("1.5")
@pytest.mark.rule("1.6")
@pytest.mark.rule("5.6")
@pytest.mark.parametrize(
    ("by", "reason"),
    [
        ("nothing", None),
        ("an opt-out", "suppressed since the first attempt"),
        ("a component", "once_is_enough"),
    ],
)
def test_a_shift_that_is_ended_leaves_them_to_the_next_which_may_be_kept_from_it(
    by: str, reason: str | None, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    SEEN.clear()
    component = {"components": {"send": [f"{__name__}:keep_back_what_was_tried"]}}
    campaign = component if by == "a component" else None
    who = [*_ordinary(10), *ONCE]
    with (
        relay_beside() as server,
        _site(tmp_path, server, database_url, monkeypatch, who, campaign=campaign) as inst,
    ):
        release_id, stop = released(inst), threading.Event()

        async def stop_now(*_: object) -> bool:
            stop.set()
            return False

        with monkeypatch.context() as patch:
            patch.setattr(Repeats, "are_left", stop_now)
            run_shift(inst, "m1", stop=stop)
        assert tally(inst, release_id).uncertain == 6
        assert state(inst, release_id)[0] is MailJobState.RUNNING, "it is not done, and was handed back"
        if by == "an opt-out":
            with inst.database.begin() as connection:
                connection.execute(
                    text(
                        "INSERT INTO suppression (contact_id, reason) "
                        "SELECT contact_id, 'opted_out' FROM contact WHERE address LIKE 'once%'"
                    )
                )
        run_shift(inst, "m1", stop=threading.Event())

        found, uncertain = tally(inst, release_id), 6 if reason else 0
        assert (found.accepted, found.uncertain, found.stopped) == (16 - uncertain, uncertain, 0)
        assert {len(server.received[_at(local)]) for local in ONCE} == {1 if reason else 2}
        with inst.database.begin() as connection:
            (last,) = connection.execute(
                text("SELECT mail_job_id, state FROM mail_job WHERE state <> 'RECOVERED'")
            ).all()
        assert last.state == "FINISHED"
        assert _decisions(inst) == ({f"not sent again: {reason}"} if reason else set())


@pytest.mark.rule("3.6")
def test_after_the_expiry_they_stay_uncertain(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        relay_beside() as server,
        _site(tmp_path, server, database_url, monkeypatch, [*_ordinary(10), *ONCE]) as inst,
    ):
        release_id = released(inst)
        expires_at, ahead, asked = now() + timedelta(hours=1), timedelta(), 0
        with inst.database.begin() as connection:
            connection.execute(text("UPDATE release SET expires_at = :at"), {"at": expires_at})

        def told(clock: DatabaseClock) -> datetime:
            nonlocal asked
            asked += 1
            return true_time(clock) + ahead

        async def an_hour_later(*_: object) -> bool:
            nonlocal ahead
            ahead, before = timedelta(hours=1), asked
            while asked < before + 2:  # a heartbeat asks too, but not twice before the expiry is looked for
                await asyncio.sleep(0.01)
            return True

        true_time = DatabaseClock.now
        monkeypatch.setattr(DatabaseClock, "now", told)
        monkeypatch.setattr(Repeats, "are_left", an_hour_later)
        run_shift(inst, "m1", stop=threading.Event())
        assert state(inst, release_id)[0] is MailJobState.FINISHED
        found = tally(inst, release_id)
        assert (found.accepted, found.uncertain, found.expired) == (10, 6, 0)
        assert _decisions(inst) == {"not sent again: the campaign has expired"}
        assert {len(server.received[_at(local)]) for local in ONCE} == {1}


def _decisions(inst: Installation) -> set[str | None]:
    with inst.database.begin() as connection:
        return set(connection.scalars(text("SELECT reply_text FROM result WHERE relay = ''")))


@pytest.mark.rule("1.8")
@pytest.mark.rule("3.7")
def test_hold_leaves_them_to_the_operator(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    who = [*ONCE, *_ordinary(120)]
    with (
        relay_beside() as server,
        _site(tmp_path, server, database_url, monkeypatch, who, campaign={"on_uncertain": "hold"}) as inst,
    ):
        release_id = released(inst)
        run_shift(inst, "m1", stop=threading.Event())
        assert state(inst, release_id)[0] is MailJobState.P_FINISHED
        found = tally(inst, release_id)
        assert (found.accepted, found.uncertain) == (120, 6)
        assert set(server.accepted) == {_at(local) for local in _ordinary(120)}

        def uncertain(*options: str) -> tuple[int, dict[str, object]]:
            code = run(
                [
                    "uncertain",
                    str(release_id),
                    *options,
                    "--json",
                    "-s",
                    str(tmp_path / "mail_orchestration.yaml"),
                ]
            )
            return code, json.loads(capsys.readouterr().out)

        def reported() -> str:
            with inst.database.begin() as connection:
                return mail_job_report(connection, release_id).to_markdown()

        assert f"`mail-orchestration uncertain {release_id}`" in reported()
        code, shown = uncertain()
        listed = shown["uncertain"]
        assert isinstance(listed, list)
        assert code == ExitCode.OK
        assert sorted(each["address"] for each in listed) == sorted(_at(local) for local in ONCE)
        assert {(each["relay"], each["waits_for_the_operator"]) for each in listed} == {("sink", True)}
        assert all("final dot" in each["reply_text"] for each in listed)

        one, two = (str(each["recipient_no"]) for each in listed[:2])
        code, shown = uncertain("--settle", "accepted", "--recipient", one, "--recipient", two)
        assert (code, shown["settled"], len(shown["uncertain"])) == (ExitCode.OK, 2, 4)  # type: ignore[arg-type]
        code, shown = uncertain("--settle", "rejected", "--recipient", one)
        assert (code, shown["settled"]) == (ExitCode.NOT_WELL, 0)
        code, shown = uncertain("--settle", "rejected")
        assert (code, shown["settled"], shown["uncertain"]) == (ExitCode.OK, 4, [])
        assert "mail-orchestration uncertain" not in reported()

        found = tally(inst, release_id)
        assert (found.accepted, found.rejected, found.uncertain) == (122, 4, 0)
        with inst.database.begin() as connection:
            parent, made = mail_job(connection, release_id), children(connection, release_id)
        assert (parent.accepted, parent.rejected, parent.uncertain) == (122, 4, 0)
        assert sum(each.accepted for each in made) == 122
        tomorrow = now() + timedelta(days=1)
        closed = close_day(inst.database, inst.installation_id, now().date(), inst.settings.zone, tomorrow)
        assert closed.mails == 126, "each of them may have arrived, and counts once"

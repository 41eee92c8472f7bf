"""What is uncertain waits: for the next shift, from which it may be kept, until the expiry, or for the operator."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.feedback.daily_counts import close_day
from mail_orchestration.feedback.reports import mail_job_report
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database_clock import DatabaseClock
from mail_orchestration.kernel.model import Bypass
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from mail_orchestration.mailcaster.repeats import Repeats
from mail_orchestration.sending.components_see import MessageInHand
from tests.scenarios.installations import address_of, now, released, state, tally
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.uncertain_site import ONCE, ordinary, site_of

pytestmark = pytest.mark.rule("5.7")


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
    who = [*ordinary(10), *ONCE]
    with (
        relay_beside() as server,
        site_of(tmp_path, server, database_url, monkeypatch, contacts=who, campaign=campaign) as inst,
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
        assert {len(server.received[address_of(local)]) for local in ONCE} == {1 if reason else 2}
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
        site_of(tmp_path, server, database_url, monkeypatch, contacts=[*ordinary(10), *ONCE]) as inst,
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
        assert {len(server.received[address_of(local)]) for local in ONCE} == {1}


def _decisions(inst: Installation) -> set[str | None]:
    with inst.database.begin() as connection:
        return set(connection.scalars(text("SELECT reply_text FROM result WHERE relay = ''")))


@pytest.mark.rule("1.8")
@pytest.mark.rule("3.7")
def test_hold_leaves_them_to_the_operator(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    who = [*ONCE, *ordinary(120)]
    with (
        relay_beside() as server,
        site_of(
            tmp_path, server, database_url, monkeypatch, contacts=who, campaign={"on_uncertain": "hold"}
        ) as inst,
    ):
        release_id = released(inst)
        run_shift(inst, "m1", stop=threading.Event())
        assert state(inst, release_id)[0] is MailJobState.P_FINISHED
        found = tally(inst, release_id)
        assert (found.accepted, found.uncertain) == (120, 6)
        assert set(server.accepted) == {address_of(local) for local in ordinary(120)}

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
        assert sorted(each["address"] for each in listed) == sorted(address_of(local) for local in ONCE)
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

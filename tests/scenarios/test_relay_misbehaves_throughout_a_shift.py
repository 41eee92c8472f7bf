"""One shift of a mailcaster against a relay that does everything wrong: every message has its right outcome."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.egress.relay import TlsMode
from mail_orchestration.feedback.books import Books
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from tests.scenarios.installations import address_of, opened, released, state, tally, write_site
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.relays.scripted import Script, ScriptedRelay
from tests.scenarios.relays.tls import private_authority
from tests.scenarios.scripted_site import shifts_go_to

CONNECTIONS = 6
PIPELINED = pytest.mark.parametrize(
    "extensions", [["PIPELINING"], ["SIZE"]], ids=["pipelined", "in lock-step"]
)

STEERED = {
    # Once, before the dot: unsent, sent again, nobody notices.
    **{
        f"once-{how}-at-{where}": "accepted"
        for how in ("drop", "reset", "half", "malformed", "huge", "trickle", "silence", "twice", "421")
        for where in ("rcpt", "data")
    },
    # Each time, before the dot: three connections, then deferred.
    **{
        f"{how}-at-{where}": "deferred"
        for how in ("drop", "half", "flood", "chatter", "421", "451")
        for where in ("rcpt", "data")
    },
    "421-at-dot": "deferred",
    "451-at-dot": "deferred",
    "drop-in-body": "uncertain",
    **{
        f"{how}-at-dot": "uncertain"
        for how in ("drop", "reset", "half", "malformed", "huge", "trickle", "silence", "flood")
    },
    "550-at-rcpt-5-1-1-354": "rejected",
    "550-at-data": "rejected",
    "550-at-dot": "rejected",
}
"""Local part → what becomes of the message. `silence` is longer than the mailcaster waits."""


@dataclass
class Course:
    """What a shift left behind."""

    books: Books
    state: MailJobState
    outcomes: dict[str, str] = field(default_factory=dict)
    """Local part → the outcome of the one result that its message has."""


def at(
    server: ScriptedRelay, monkeypatch: pytest.MonkeyPatch, **more: object
) -> AbstractContextManager[None]:
    """Shifts deliver to this relay, and wait a second for its replies rather than minutes."""
    return shifts_go_to(server, monkeypatch, wait_s=1.0, **more)


def course_of(inst: Installation, release_id: int) -> Course:
    with inst.database.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT split_part(address, '@', 1), string_agg(CAST(outcome AS text), ' ')"
                " FROM assembled_message JOIN result USING (release_id, message_no) GROUP BY 1"
            )
        )
        outcomes = dict(rows.tuples().all())
    return Course(books=tally(inst, release_id), state=state(inst, release_id)[0], outcomes=outcomes)


def send_to(locals_: list[str], tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Course:
    """Release to these and run one shift."""
    settings = write_site(
        tmp_path,
        relay_port=1,
        contacts=locals_,
        campaign={"on_uncertain": "hold"},
        # So many 421 and 451 would slow it down for minutes.
        dispatcher={"back_off_round_seconds": 0.01},
        mailcasters=[{"name": "m1", "min_job_size": 100, "max_job_size": 1000, "connections": CONNECTIONS}],
    )
    with opened(settings, database_url, monkeypatch) as inst:
        release_id = released(inst)
        run_shift(inst, "m1", stop=threading.Event())
        return course_of(inst, release_id)


@pytest.mark.rule("5.1")
@pytest.mark.rule("5.7")
@pytest.mark.rule("6.4")
@PIPELINED
def test_every_message_has_its_own_outcome(
    extensions: list[str], tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = [f"r{n}" for n in range(200)]
    steered = list(STEERED)
    # Among the others, so that each fault meets sessions that are in the midst of mail.
    mixed = [local for n, one in enumerate(ordinary) for local in (one, *steered[n : n + 1])]
    with relay_beside(Script(extensions=extensions)) as server, at(server, monkeypatch):
        done = send_to(mixed, tmp_path, database_url, monkeypatch)
    assert done.outcomes == STEERED | dict.fromkeys(ordinary, "accepted")
    assert done.state is MailJobState.P_FINISHED
    assert done.books.accepted == 200 + Counter(STEERED.values())["accepted"]
    taken_in_vain = {address_of(local) for local, outcome in STEERED.items() if outcome != "accepted"}
    assert not taken_in_vain & set(server.accepted)
    assert all(server.accepted[address_of(local)] == 1 for local in ordinary)
    assert max(server.accepted.values()) == 1, "nothing is sent twice"
    # Three of its own, and what went ahead in a session that a fault of the message before it ended.
    assert max(server.tries[local] for local in mixed) <= 3 + CONNECTIONS, "nothing spins"
    assert server.octets_said_in_vain < 64 * 2**20, "what has no end is cut off, not kept"


@pytest.mark.rule("6.8")
def test_every_step_of_a_session_may_fail(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = private_authority(tmp_path)
    wrong = ["drop", "reset", "half", "malformed", "huge", "flood", "421", "454"]
    once = {step: list(wrong) for step in ("greeting", "ehlo", "starttls", "auth", "mail", "quit")}
    once["greeting"].append("silence")
    once["starttls"] += ["silence", "tear"]
    once["mail"].append("tear")
    once["rset"] = ["drop", "malformed", "421"]
    script = Script(
        starttls=authority.server,
        extensions=["PIPELINING", "AUTH PLAIN"],
        password="right",
        reply_delay_s=0.001,
        once=once,
    )
    addresses = [f"r{n}" for n in range(250)] + [f"451-at-rcpt-{n}" for n in range(15)]
    with relay_beside(script) as server:
        relay = {"tls": TlsMode.STARTTLS, "ca_file": authority.ca_file, "password": "right"}
        with at(server, monkeypatch, session_lifetime_s=0.05, **relay):
            done = send_to(addresses, tmp_path, database_url, monkeypatch)
    assert not any(once.values()), "each fault was met"
    outcomes = Counter(done.outcomes.values())
    # 454 to MAIL is a word on the message in hand, and one that met three of the other faults is deferred.
    assert outcomes["accepted"] + outcomes["deferred"] == 265
    assert 15 <= outcomes["deferred"] <= 19
    assert done.state is MailJobState.P_FINISHED
    assert max(server.accepted.values()) == 1


def test_a_shift_waits_for_a_relay_that_is_slow_and_takes_nobody_for_a_while(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(accepts_after_s=1.2, defers_first=40, once={"greeting": ["451", "554", "421"]})
    with relay_beside(script) as server, at(server, monkeypatch):
        done = send_to([f"r{n}" for n in range(200)], tmp_path, database_url, monkeypatch)
    assert Counter(done.outcomes.values()) == {"accepted": 160, "deferred": 40}
    assert done.state is MailJobState.P_FINISHED
    assert server.accepted.total() == len(server.accepted) == 160

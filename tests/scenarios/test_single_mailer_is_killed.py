"""A single mailer is killed with -9: nothing is lost, one mail a connection is repeated at most, and one that kills
each of them is put aside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.loose_mail_lists import count_loose_mails
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.kernel.model import Bypass
from mail_orchestration.sending.components_see import MessageInHand
from mail_orchestration.single_mailer import SingleMail, failures, run_loose_shift, submit
from tests.scenarios.installations import (
    SETTINGS,
    addresses,
    hours_pass,
    site_whose_relay_falls_silent,
    site_with_sink,
)
from tests.scenarios.relays.beside import wait_until_unanswered

MAILS, ANSWERED, CONNECTIONS = 100, 15, 10
POISON = "poison@example.net"

_SHIFT = """
import sys, threading
from pathlib import Path
from mail_orchestration.installation import open_installation
from mail_orchestration.single_mailer import run_loose_shift
with open_installation(Path(sys.argv[1]), application_name="s1") as inst:
    run_loose_shift(inst, "s1", stop=threading.Event(), connections=int(sys.argv[2]))
"""


def ends_its_worker(batch: Sequence[MessageInHand]) -> list[Bypass]:
    """A component that takes all memory for one mail; the kernel then does this."""
    if any(each.message.address == POISON for each in batch):
        os.kill(os.getpid(), signal.SIGKILL)
    return []


def start_single_mailer(inst: Installation) -> subprocess.Popen[bytes]:
    """One shift of a single mailer in a process of its own."""
    arguments = [str(inst.settings.folder / SETTINGS), str(CONNECTIONS)]
    return subprocess.Popen([sys.executable, "-c", _SHIFT, *arguments], start_new_session=True)


def submitted(inst: Installation, to: Sequence[str]) -> None:
    attributes = {"name": "Ann", "number": 1}
    answers = submit(inst, [SingleMail(campaign="letter", to=each, attributes=attributes) for each in to])
    assert all(answer.submission.is_taken for answer in answers)


def ended(inst: Installation) -> int:
    with inst.database.begin() as connection:
        return connection.scalar(text("SELECT count(*) FROM delivery_log WHERE outcome = 'accepted'")) or 0


@pytest.mark.rule("5.1", "6.3", "7.2")
def test_nothing_is_lost_and_at_most_one_mail_per_connection_is_repeated(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_whose_relay_falls_silent(tmp_path, database_url, monkeypatch, after=ANSWERED) as (inst, relay):
        submitted(inst, sorted(addresses(MAILS)))
        process = start_single_mailer(inst)
        wait_until_unanswered(relay, CONNECTIONS)
        process.kill()
        process.wait()
        relay.script.falls_silent_after = None
        assert ended(inst) == ANSWERED
        hours_pass(inst, 1)
        run_loose_shift(inst, "another", stop=threading.Event(), connections=CONNECTIONS)
        with inst.database.begin() as connection:
            assert count_loose_mails(connection, inst.installation_id) == []
        assert ended(inst) == MAILS
        got = relay.accepted
        assert set(got) == addresses(MAILS)
        assert got.total() - MAILS == CONNECTIONS, "what was in flight is repeated, and nothing else"
        assert max(got.values()) == 2
        assert all(len(set(copies)) == 1 for copies in relay.received.values()), "the same octets"


@pytest.mark.rule("6.3", "7.3")
def test_a_mail_that_kills_each_single_mailer_is_put_aside_and_the_others_are_sent(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = {"components": {"send": ["tests.scenarios.test_single_mailer_is_killed:ends_its_worker"]}}
    with site_with_sink(tmp_path, database_url, monkeypatch, campaign=component) as (inst, sink):
        innocent = sorted(addresses(4))
        submitted(inst, [*innocent[:2], POISON, *innocent[2:]])
        ends = []
        while not ends or ends[-1] != 0:
            ends.append(start_single_mailer(inst).wait())
            hours_pass(inst, 1)
            assert len(ends) <= 4, ends
        assert ends == [-signal.SIGKILL] * 3 + [0]
        assert sink.tally() == dict.fromkeys(innocent, 1)
        (group,) = failures(inst)
        assert (group.mails, group.code) == (1, FailureCode.IO_EXCEPTION)

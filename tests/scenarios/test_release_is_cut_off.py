"""kill -9 in dedup and in assembly: dedup is done again as a whole, assembly goes on, and everybody has one message."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from mail_orchestration.broadcast import (
    assemble_release,
    fill_audience,
    queue_release,
    release_again,
    release_campaign,
    resolve_release,
)
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import StateConflict
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.maintenance import clean_delivery_queue
from tests.scenarios.installations import now, opened, state, tally, write_site

CONTACTS = 1200

COMPONENT = """
import os, time
def wait_once(recipients, context=None):
    if marker := os.environ.get("CUT_OFF_MARKER"):
        open(marker, "w").close()
        time.sleep(600)
    return []
def wait_in_the_middle(recipients, context=None):
    if recipients[0].recipient_no > int(os.environ.get("CUT_OFF_AFTER", "1_000_000")):
        time.sleep(600)
    return []
"""

RUN = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from mail_orchestration import broadcast
from mail_orchestration.broadcast import assembling
from mail_orchestration.installation import open_installation
assembling.ASSEMBLY_BATCH, assembling.COMMIT_RECIPIENTS = 50, 100
if __name__ == "__main__":
    with open_installation(Path(sys.argv[1]), application_name="victim") as inst:
        getattr(broadcast, sys.argv[2])(inst, int(sys.argv[3]), now=datetime.now(UTC))
"""


@pytest.fixture
def inst(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    (tmp_path / "cut_off_component.py").write_text(COMPONENT, encoding="utf-8")
    (tmp_path / "victim.py").write_text(RUN, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    monkeypatch.syspath_prepend(tmp_path)
    settings = write_site(
        tmp_path,
        relay_port=9,
        contacts=CONTACTS,
        campaign={
            "components": {
                "preprocess": ["cut_off_component:wait_once"],
                "compose": ["cut_off_component:wait_in_the_middle"],
            }
        },
        dispatcher={"assembly_processes": 1},
    )
    with opened(settings, database_url, monkeypatch) as installation:
        fill_audience(installation, "everybody", now=now())
        yield installation


def start(inst: Installation, step: str, release_id: int, **environment: str) -> subprocess.Popen[bytes]:
    settings = inst.settings.folder / "mail_orchestration.yaml"
    return subprocess.Popen(
        [sys.executable, str(inst.settings.folder / "victim.py"), str(settings), step, str(release_id)],
        env={**os.environ, **environment},
    )


def count(inst: Installation, what: str) -> int:
    with inst.database.begin() as connection:
        return int(connection.execute(text(f"SELECT {what}")).scalar_one())


def kill(victim: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(victim.pid).children(recursive=True)
    victim.kill()
    assert victim.wait() == -9
    # Nobody is left behind: processes that compose end with the one that gave them work.
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


@pytest.mark.rule("1.3")
@pytest.mark.rule("3.2")
def test_dedup_that_was_killed_is_marked_and_released_again(inst: Installation, tmp_path: Path) -> None:
    release_id = release_campaign(inst, tmp_path / "campaigns" / "letter", now=now()).release_id
    marker = tmp_path / "in-dedup"
    victim = start(inst, "resolve_release", release_id, CUT_OFF_MARKER=str(marker))
    while not marker.exists():
        assert victim.poll() is None
        time.sleep(0.02)
    assert clean_delivery_queue(inst, now=now()).interrupted == []  # slow is not cut off
    kill(victim)

    while not (interrupted := clean_delivery_queue(inst, now=now()).interrupted):
        time.sleep(0.05)  # until the server has noticed
    assert interrupted == [release_id]
    assert state(inst, release_id) == (MailJobState.INTERRUPTED, "dedup was cut off; release it again")
    assert count(inst, "count(*) FROM recipient") == 0
    assert tally(inst, release_id).recipients == 0
    with pytest.raises(StateConflict, match="INTERRUPTED"):
        resolve_release(inst, release_id, now=now())

    assert release_again(inst, release_id, now=now()).state is MailJobState.QUEUING
    assert resolve_release(inst, release_id, now=now()).recipients == CONTACTS
    with pytest.raises(StateConflict):
        release_again(inst, release_id, now=now())
    assert tally(inst, release_id).unassembled == CONTACTS


@pytest.mark.rule("2.7")
def test_assembly_that_was_killed_goes_on_with_no_message_twice(inst: Installation, tmp_path: Path) -> None:
    release_id = release_campaign(inst, tmp_path / "campaigns" / "letter", now=now()).release_id
    resolve_release(inst, release_id, now=now())
    victim = start(inst, "assemble_release", release_id, CUT_OFF_AFTER=str(CONTACTS // 2))
    while count(inst, "max(message_count) FROM release") < 200:
        assert victim.poll() is None
        time.sleep(0.02)
    kill(victim)
    done = count(inst, "max(message_count) FROM release")
    assert done == count(inst, "count(*) FROM assembled_message") < CONTACTS
    books = tally(inst, release_id)
    assert (books.unassembled, books.waiting) == (CONTACTS - done, done)
    assert state(inst, release_id)[0] is MailJobState.QUEUING

    deadline = time.monotonic() + 60
    while True:
        try:
            assemble_release(inst, release_id, now=now())
            break
        except StateConflict:  # the server has not noticed yet that the assembler is gone
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert count(inst, "count(DISTINCT recipient_no) FROM assembled_message") == CONTACTS
    assert count(inst, "count(*) FROM assembled_message") == CONTACTS
    assert count(inst, "max(message_no) FROM assembled_message") == CONTACTS
    assert queue_release(inst, release_id, now=now()) is MailJobState.P_QUEUED
    assert tally(inst, release_id).waiting == CONTACTS

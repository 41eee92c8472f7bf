"""`mail-orchestration demo`, in a short variant: Dagster's sensors carry a release to its end, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTACTS = 300


def start_demo(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The demo in a folder of its own, with an environment in which nothing points to an installation."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("MAIL_ORCHESTRATION")
    }
    # A database that is not the demo's: it must not be looked at.
    environment |= {"PYTHONPATH": str(ROOT), "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/real-mail"}
    return subprocess.Popen(
        [sys.executable, "-m", "mail_orchestration.cli", "demo", "--contacts", str(CONTACTS), *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that name the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(folder) in line:
            found.append(line)
    return found


@pytest.mark.rule("11.1")
@pytest.mark.rule("1.8")
def test_the_demo_ends_well_and_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    kept = folder / ".mail_orchestration" / "mine"
    kept.mkdir(parents=True)
    demo = start_demo(folder, "--json")
    out, err = demo.communicate()
    assert demo.returncode == 0, err.decode()
    told = json.loads(out)
    books = told["books"]
    assert told["state"] == "P_FINISHED"
    assert told["reported_by_dagster"] is True
    assert books["balances"] is True
    assert books["recipients"] == CONTACTS
    assert (books["waiting"], books["sending"], books["uncertain"], books["stopped"]) == (0, 0, 0, 0)
    assert books["bypassed"]["opted_out"] == 2
    assert (
        sum(books["bypassed"].values()) + books["accepted"] + books["rejected"] + books["deferred"]
        == CONTACTS
    )
    assert told["proof"]["holds"] is True
    assert told["proof"]["stored_by_relay"] == books["accepted"] > CONTACTS * 0.9
    # Whoever opted out is not written to at all; whoever got the newsletter today gets no reminder before tomorrow.
    assert 0 < told["held"]["mails"] < told["held"]["recipients"]
    children = [line for line in told["children"] if line["first_message"] and line["mailcaster"]]
    assert sum(line["last_message"] - line["first_message"] + 1 for line in children) == books["assembled"]
    assert processes_of(folder) == []
    assert {path.name for path in (folder / ".mail_orchestration").iterdir()} == {"demo", "demo.lock", "mine"}


def test_an_interrupted_demo_ends_all_that_it_started_and_can_be_run_again(tmp_path: Path) -> None:
    demo = start_demo(tmp_path)
    daemon_log = tmp_path / ".mail_orchestration" / "demo" / "logs" / "daemon.log"
    while not daemon_log.exists():
        assert demo.poll() is None
        time.sleep(0.1)
    second = start_demo(tmp_path)
    _, told = second.communicate()
    assert second.returncode == 4
    assert b"another process" in told
    demo.send_signal(signal.SIGTERM)
    demo.communicate()
    assert demo.returncode == 130
    assert processes_of(tmp_path) == []


def test_a_killed_demo_leaves_nothing_running(tmp_path: Path) -> None:
    demo = start_demo(tmp_path)
    port = tmp_path / ".mail_orchestration" / "demo" / "relay" / "port"
    while not port.exists():
        assert demo.poll() is None
        time.sleep(0.1)
    demo.kill()
    demo.communicate()
    # The kernel ends the children, the keeper the database: nobody else could.
    deadline = time.monotonic() + 60
    while left := processes_of(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)

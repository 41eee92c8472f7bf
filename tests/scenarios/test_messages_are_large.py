"""A campaign with an attachment of megabytes is delivered in the memory that a mailcaster may have."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from mail_orchestration.feedback.books import books
from tests.scenarios.installations import opened, released, write_site
from tests.scenarios.relays.postfix_sink import smtp_sink

CONTACTS = 120
MOST_MEGABYTES = 300

_SHIFT = """
import re, sys, threading
from pathlib import Path
from mail_orchestration.installation import open_installation
from mail_orchestration.mailcaster import run_shift
with open_installation(Path(sys.argv[1]), application_name="m1") as inst:
    run_shift(inst, "m1", stop=threading.Event())
# Not getrusage: its maximum is inherited from the process that started this one.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.rule("2.5")
@pytest.mark.rule("4.2")
def test_a_mailcaster_holds_few_of_them_at_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with smtp_sink() as relay:
        settings = write_site(
            tmp_path,
            relay_port=relay.port,
            contacts=CONTACTS,
            campaign={"attachments": [{"path": "film.bin"}]},
            mailcasters=[{"name": "m1", "min_job_size": 100, "max_job_size": 200, "connections": 5}],
        )
        film = random.Random(1).randbytes(3_000_000)
        (tmp_path / "campaigns" / "letter" / "film.bin").write_bytes(film)
        with opened(settings, database_url, monkeypatch) as inst:
            release_id = released(inst)
            shift = subprocess.run(
                [sys.executable, "-c", _SHIFT, str(settings)], check=True, stdout=subprocess.PIPE, text=True
            )
            with inst.database.begin() as connection:
                tally = books(connection, release_id)
    assert (tally.balances, tally.accepted) == (True, CONTACTS)
    assert int(shift.stdout) < MOST_MEGABYTES

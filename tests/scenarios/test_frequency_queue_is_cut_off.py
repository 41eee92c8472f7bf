"""Whoever lets held mails go, or disables the policy, is killed: it is done or it never was, and nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from sqlalchemy import text

from mail_orchestration.frequency.disabling import disable_policy
from mail_orchestration.frequency.queue import recover
from mail_orchestration.frequency.releasing import Released, release_held
from mail_orchestration.installation import Installation, open_installation
from tests.scenarios.frequency_site import IN_THREE_DAYS, site_that_holds
from tests.scenarios.installations import SETTINGS, now

CONTACTS = 5
_RESCAN = "from mail_orchestration.frequency.queue import rescan; rescan(inst, now=now)"
_DISABLE = "from mail_orchestration.frequency.disabling import disable_policy; disable_policy(inst, by='me', now=now)"
_VICTIM = """
import sys
from datetime import datetime
from pathlib import Path
from mail_orchestration.installation import open_installation
if __name__ == "__main__":
    now = datetime.fromisoformat(sys.argv[2])
    with open_installation(Path(sys.argv[1]), application_name="victim") as inst:
        {act}
"""


def dies(inst: Installation, act: str, point: str, at: datetime | None = None) -> None:
    """A process that does it, `at` a moment or in three days, dies at this point, or at its `point:passing`."""
    moment = (at or now() + IN_THREE_DAYS).isoformat()
    died = subprocess.run(
        [sys.executable, "-c", _VICTIM.format(act=act), str(inst.settings.folder / SETTINGS), moment],
        env={**os.environ, "CRASH_AT": point},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (died.returncode, f"dies at {point.partition(':')[0]}" in died.stderr) == (
        -signal.SIGKILL,
        True,
    ), died.stderr


def queue_of(inst: Installation) -> dict[str, int]:
    """What waits, what waited, who is in later releases, and all places."""
    with inst.database.begin() as connection:
        row = connection.execute(
            text(
                "SELECT (SELECT count(*) FROM held_mail) AS waiting, (SELECT count(*) FROM held_mail_log) AS ended, "
                "(SELECT count(*) FROM recipient AS p JOIN release AS r USING (release_id) "
                "WHERE r.held_from IS NOT NULL) AS later, "
                "(SELECT coalesce(sum(places), 0) FROM frequency_counter) AS places, "
                "(SELECT count(*) FROM frequency_policy) AS policies"
            )
        ).one()
        return {name: int(number) for name, number in row._mapping.items()}


WAITS = {"waiting": CONTACTS, "ended": 0, "later": 0}
GONE = {"waiting": 0, "ended": CONTACTS, "later": CONTACTS}


@pytest.mark.rule("8.4", "8.8")
def test_held_mails_are_let_go_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_that_holds(tmp_path, database_url, monkeypatch, contacts=CONTACTS) as (inst, _, _):
        for point in ("held_mails_chosen", "held_mails_released"):
            dies(inst, _RESCAN, point)
            # The day was closed before: the first mails are in its log.
            assert queue_of(inst) == {**WAITS, "places": 0, "policies": 1}
        dies(inst, _RESCAN, "held_mails_committed")
        assert queue_of(inst) == {**GONE, "places": CONTACTS, "policies": 1}
        assert release_held(inst, now=now() + IN_THREE_DAYS) == Released()


@pytest.mark.rule("8.4", "8.9")
def test_what_a_night_that_was_cut_off_would_have_let_go_is_not_lost_to_a_recovery(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_that_holds(tmp_path, database_url, monkeypatch, contacts=CONTACTS, shelf_life_days=1) as (
        inst,
        _,
        held,
    ):
        with inst.database.begin() as connection:
            # A moment at which a day begins: the one on which the first mails count no more.
            shelf_ends_at = connection.execute(text("SELECT DISTINCT expires_at FROM held_mail")).scalar_one()
        night = shelf_ends_at + timedelta(minutes=15)
        # Before, it finishes the last night and makes up for the one that was missed; then the day is counted for.
        dies(inst, _RESCAN, "held_mails_chosen:3", night)
        assert queue_of(inst) == {**WAITS, "places": 0, "policies": 1}
        (later,) = recover(inst, by="me", now=night + timedelta(days=1)).released.later
        assert (later.held_from, later.mails) == (held, CONTACTS)
        assert queue_of(inst) == {**GONE, "places": CONTACTS, "policies": 1}


@pytest.mark.rule("8.4")
def test_a_policy_is_disabled_as_a_whole(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_that_holds(tmp_path, database_url, monkeypatch, contacts=CONTACTS) as (inst, _, _):
        settings = inst.settings.folder / SETTINGS
        wish = yaml.safe_load(settings.read_text(encoding="utf-8"))
        settings.write_text(yaml.safe_dump({**wish, "frequency": {"enabled": False}}), encoding="utf-8")
        before = queue_of(inst)
        assert before == {**WAITS, "places": CONTACTS, "policies": 1}
        dies(inst, _DISABLE, "policy_dropped")
        assert queue_of(inst) == before
        with open_installation(settings, application_name="tests") as wished:
            done = disable_policy(wished, by="me", now=now() + IN_THREE_DAYS)
        assert done.released.mails == CONTACTS
        assert queue_of(inst) == {**GONE, "places": 0, "policies": 0}

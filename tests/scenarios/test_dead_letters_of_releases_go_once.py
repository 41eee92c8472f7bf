"""A dead letter is not sent after a later release of the same content has reached its contact (spec 6.6)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.dispatch.dead_letters import Chosen, resubmit_loose_mails
from mail_orchestration.dispatch.loose_mail_lists import list_loose_mails
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.loose_mail_states import LooseMailState
from tests.scenarios.installations import SETTINGS, address_of, execute, now, released
from tests.scenarios.relays.beside import server
from tests.scenarios.relays.scripted import ScriptedRelay
from tests.scenarios.retry_site import retry_until_nothing_waits, send_mail_jobs, site

__all__ = ["server"]
pytestmark = pytest.mark.rule("6.6", "6.3")
NEVER = "450-at-dot-4-2-1"
REFUSED = "554-at-dot"


@pytest.fixture
def inst(
    tmp_path: Path, server: ScriptedRelay, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    """A release to four contacts has ended with a dead letter for each."""
    contacts = ["ann", "ben", NEVER, REFUSED]
    with site(tmp_path, server, database_url, monkeypatch, contacts, max_attempts=1) as inst:
        server.script.defers_first = 1000
        released(inst)
        send_mail_jobs(inst, monkeypatch)
        server.script.defers_first = 0
        assert dead_letters(inst) == sorted(map(address_of, contacts))
        yield inst


def dead_letters(inst: Installation) -> list[str]:
    """Whose they are."""
    with inst.database.begin() as connection:
        found = list_loose_mails(connection, inst.installation_id, states=[LooseMailState.FAILED])
    return sorted(each.address for each in found)


def resubmitted(inst: Installation) -> tuple[list[str], list[str]]:
    """To whom dead letters go when all are resubmitted, and to whom some do not since the same was queued since."""
    with inst.database.begin() as connection:
        found = list_loose_mails(connection, inst.installation_id, states=[LooseMailState.FAILED])
        done = resubmit_loose_mails(
            connection,
            inst.installation_id,
            Chosen(),
            history=inst.settings.retention.history,
            now=now(),
        )
    address = {each.loose_mail_id: each.address for each in found}
    return sorted(address[number] for number in done.numbers), sorted(map(address.__getitem__, done.repeats))


def test_what_a_later_release_has_for_the_contact_stays(
    inst: Installation, server: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = dead_letters(inst)
    later = released(inst, again=True)
    assert resubmitted(inst) == ([], everybody), "it waits in the later release"
    execute(inst, "UPDATE mail_job SET state = 'STOPPED', ended_at = now() WHERE mail_job_id = :r", r=later)

    released(inst, again=True)
    send_mail_jobs(inst, monkeypatch)
    assert server.accepted == {address_of("ann"): 1, address_of("ben"): 1}
    assert sorted([*everybody, address_of(NEVER)]) == dead_letters(inst)
    # What was refused there has not arrived; of two dead letters that say the same the later one goes.
    assert resubmitted(inst) == (
        sorted(map(address_of, [NEVER, REFUSED])),
        sorted(map(address_of, ["ann", "ben", NEVER])),
    )
    retry_until_nothing_waits(inst)
    assert server.accepted == {address_of("ann"): 1, address_of("ben"): 1}

    execute(inst, "UPDATE mail_job SET queued_at = queued_at - interval '8 days'")
    assert address_of("ann") in resubmitted(inst)[0], "that is longer ago than the history"


def test_a_release_that_sends_nothing_keeps_no_dead_letter(
    inst: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    later = released(inst, again=True)
    execute(inst, "UPDATE mail_job SET state = 'STOPPED', ended_at = now() WHERE mail_job_id = :r", r=later)
    execute(
        inst,
        "INSERT INTO held_mail (installation_id, contact_id, campaign_id, release_id, audience_id, priority, held_at, "
        "expires_at, max_mails, days) SELECT :i, contact_id, 1, :r, 1, 0, now(), now() + interval '1 day', 1, 7 "
        "FROM contact WHERE address_key LIKE 'ann@%'",
        i=inst.installation_id,
        r=later,
    )
    with inst.database.begin() as connection:
        [anns] = [
            each.loose_mail_id
            for each in list_loose_mails(connection, inst.installation_id)
            if each.address == address_of("ann")
        ]
    asked = ["dead-letters", str(anns), "--resubmit", "-s", str(inst.settings.folder / SETTINGS)]
    assert run(asked) == ExitCode.NOT_WELL
    told = " ".join(capsys.readouterr().out.split())
    assert f"left, the same was queued by another mail or a later release {anns}" in told

    goes, stays = resubmitted(inst)
    assert stays == [address_of("ann")], "it is held there, and will be sent"
    assert len(goes) == 3

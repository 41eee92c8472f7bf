"""Assembly: who is bypassed, when it fails, where it goes on after it was cut off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.broadcast import (
    assemble_release,
)
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import (
    AssemblyFailed,
    DatabaseUnavailable,
    StateConflict,
)
from mail_orchestration.kernel.model import Bypass, Recipient
from mail_orchestration.kernel.states import MailJobState
from tests.integration.broadcast_site import NOW, break_connections, campaign, inst, made, site
from tests.scenarios.installations import state, tally

__all__ = ["inst", "site"]


@pytest.mark.rule("2.7")
def test_a_few_who_cannot_be_composed_for_are_bypassed(inst: Installation, site: Path) -> None:
    folder = campaign(site)
    template = "<p>{{ 1 / (number | int - 7) }} {{ unsubscribe_url }}</p>"
    (folder / "message.html.j2").write_text(template, encoding="utf-8")
    release_id = made(inst, folder)
    summary = assemble_release(inst, release_id, now=NOW)
    assert (summary.messages, summary.bypassed) == (299, {"template_error": 1})
    found = tally(inst, release_id)
    assert (found.assembled, found.bypassed) == (299, {"template_error": 1})


@pytest.mark.rule("2.7")
def test_more_than_one_percent_fail_the_mail_job_before_a_mail_leaves(inst: Installation, site: Path) -> None:
    folder = campaign(site)
    template = "<p>{{ 1 / (number | int // 5) }} {{ unsubscribe_url }}</p>"
    (folder / "message.html.j2").write_text(template, encoding="utf-8")
    release_id = made(inst, folder)
    with pytest.raises(AssemblyFailed, match=r"4 of 300 messages .* more than 1 %.*message\.html\.j2:1"):
        assemble_release(inst, release_id, now=NOW)
    failed, reason = state(inst, release_id)
    assert failed is MailJobState.FAILED
    assert "message.html.j2:1" in reason
    with pytest.raises(StateConflict):
        assemble_release(inst, release_id, now=NOW)


@pytest.mark.rule("2.7")
@pytest.mark.rule("1.8")
def test_assembly_goes_on_where_it_was_cut_off(
    inst: Installation, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.ASSEMBLY_BATCH", 20)
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.COMMIT_RECIPIENTS", 100)
    release_id = made(inst, campaign(site))

    def cut(done: int, total: int) -> None:
        if done >= 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assemble_release(inst, release_id, now=NOW, progress=cut)
    half = tally(inst, release_id)
    assert (half.assembled, half.unassembled) == (200, 100)
    assert assemble_release(inst, release_id, now=NOW).messages == 100
    assert tally(inst, release_id).assembled == 300
    with inst.database.begin() as connection:
        rows = connection.execute(
            text("SELECT message_no, recipient_no FROM assembled_message ORDER BY message_no")
        ).all()
    assert [tuple(row) for row in rows] == [(n, n) for n in range(1, 301)]


def keep_nobody(recipients: Sequence[Recipient]) -> list[Bypass]:
    return [Bypass(recipient_no=each.recipient_no, reason="not_today") for each in recipients]


@pytest.mark.rule("1.6", "1.8")
@pytest.mark.parametrize("component", [None, "keep_nobody"])
def test_little_is_kept_in_memory_before_it_is_stored(
    inst: Installation, site: Path, monkeypatch: pytest.MonkeyPatch, component: str | None
) -> None:
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.ASSEMBLY_BATCH", 20)
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.COMMIT_RECIPIENTS", 100)
    # Of messages already the first is too much.
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.COMMIT_OCTETS", 1)
    named = {} if component is None else {"compose": [f"{__name__}:{component}"]}
    release_id = made(inst, campaign(site, components=named))
    stored: list[int] = []
    assemble_release(inst, release_id, now=NOW, progress=lambda done, total: stored.append(done))
    steps = [after - before for before, after in zip([0, *stored], stored, strict=False)]
    assert sum(steps) == 300
    assert max(steps) <= (20 if component is None else 100)
    found = tally(inst, release_id)
    assert (found.assembled, found.bypassed) == ((300, {}) if component is None else (0, {"not_today": 300}))


@pytest.mark.rule("2.7", "1.8")
def test_assembly_goes_on_after_the_database_was_gone(
    inst: Installation, site: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.ASSEMBLY_BATCH", 20)
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.COMMIT_RECIPIENTS", 100)
    release_id = made(inst, campaign(site))

    def all_connections_break(done: int, total: int) -> None:
        if done == 100:
            break_connections(database_url)

    with pytest.raises(DatabaseUnavailable):
        assemble_release(inst, release_id, now=NOW, progress=all_connections_break)
    assert state(inst, release_id)[0] is MailJobState.QUEUING
    assert tally(inst, release_id).unassembled > 0
    assemble_release(inst, release_id, now=NOW)
    assert tally(inst, release_id).assembled == 300
    with inst.database.begin() as connection:
        numbers = connection.scalars(text("SELECT recipient_no FROM assembled_message")).all()
    assert sorted(numbers) == list(range(1, 301))

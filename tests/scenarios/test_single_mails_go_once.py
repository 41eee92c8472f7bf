"""The same single mail goes once within the history, however long it waits and whoever resubmits it (spec 6.6)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration import campaigns
from mail_orchestration.dispatch.dead_letters import Chosen
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.single_mailer import Submission, delete, resubmit, submit
from mail_orchestration.single_mailer.failures import why_left
from tests.scenarios.installations import address_of, now
from tests.scenarios.relays.beside import server
from tests.scenarios.relays.scripted import ScriptedRelay
from tests.scenarios.single_mail_site import mail, send, site, states

__all__ = ["server"]

REPEATS = "the same was queued by another mail, "


@pytest.fixture
def inst(
    tmp_path: Path, server: ScriptedRelay, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    with site(tmp_path, server, database_url, monkeypatch) as inst:
        yield inst


def days_pass(inst: Installation, days: int) -> None:
    """All that is known of single mails is so many days older."""
    with inst.database.begin() as connection:
        connection.execute(
            text("SELECT ensure_day_partitions(queued_on - :days) FROM queue_history"), {"days": days}
        )
        connection.execute(
            text(
                "UPDATE queue_history SET queued_on = queued_on - :days, "
                "queued_at = queued_at - make_interval(days => :days)"
            ),
            {"days": days},
        )
        connection.execute(
            text(
                "UPDATE loose_mail SET created_at = created_at - make_interval(days => :days), "
                "remembered_at = remembered_at - make_interval(days => :days), "
                "due_at = due_at - make_interval(days => :days)"
            ),
            {"days": days},
        )


def resubmitted(inst: Installation, these: Chosen) -> tuple[list[int], list[int]]:
    """The numbers of those that go, and of those that are said to repeat another mail."""
    done = resubmit(inst, these)
    left = why_left(inst, these, done.numbers, done.repeats)
    return done.numbers, [number for number, why in left.items() if why.startswith(REPEATS)]


def submitted(inst: Installation, local: str) -> tuple[Submission, int | None]:
    [answer] = submit(inst, mail(local))
    return answer.submission, answer.loose_mail_id


@pytest.mark.rule("6.6", "7.1")
def test_what_waits_for_longer_than_the_history_is_queued_all_the_same(
    inst: Installation, server: ScriptedRelay
) -> None:
    submit(inst, mail("ann", at=now() + timedelta(days=10)))
    campaigns.pause(inst, "letter")
    assert submitted(inst, "ben")[0] is Submission.PAUSED
    days_pass(inst, 8)
    answers = submit(inst, [mail("ann"), mail("ben")])
    assert [each.submission for each in answers] == [Submission.DUPLICATE] * 2
    assert [now() - each.queued_at > timedelta(days=8) for each in answers if each.queued_at] == [True] * 2

    days_pass(inst, 2)
    campaigns.resume(inst, "letter")
    assert send(inst) == {Outcome.ACCEPTED: 2}
    assert submitted(inst, "ann") == (Submission.DUPLICATE, None), "it left just now"
    assert submitted(inst, "ben") == (Submission.DUPLICATE, None)
    assert server.accepted == {address_of("ann"): 1, address_of("ben"): 1}


@pytest.mark.rule("6.6", "7.3")
def test_what_is_resubmitted_is_queued_anew(inst: Installation) -> None:
    local = "once-554-at-dot"
    submitted(inst, local)
    assert send(inst) == {Outcome.REJECTED: 1}
    days_pass(inst, 8)
    assert len(resubmit(inst, Chosen()).numbers) == 1
    assert send(inst) == {Outcome.ACCEPTED: 1}
    assert submitted(inst, local) == (Submission.DUPLICATE, None)
    days_pass(inst, 8)
    assert submitted(inst, local)[0] is Submission.QUEUED


@pytest.mark.rule("6.6", "7.3")
def test_what_was_submitted_anew_since_is_not_resubmitted(inst: Installation, server: ScriptedRelay) -> None:
    local = "once-554-at-dot"
    _, first = submitted(inst, local)
    assert first is not None
    send(inst)
    days_pass(inst, 8)
    assert submitted(inst, local)[0] is Submission.QUEUED
    these = Chosen(loose_mail_ids=[first])
    assert resubmitted(inst, these) == ([], [first]), "the other one waits"
    assert send(inst) == {Outcome.ACCEPTED: 1}
    assert resubmitted(inst, these) == ([], [first]), "the other one has arrived"
    assert states(inst) == {local: "FAILED"}
    assert delete(inst, these, by="somebody") == [first]
    assert submitted(inst, local) == (Submission.DUPLICATE, None), "what is deleted is not what arrived"
    assert server.accepted == {address_of(local): 1}


@pytest.mark.rule("6.6", "7.3")
def test_of_two_that_failed_and_say_the_same_the_later_one_goes(inst: Installation) -> None:
    local = "554-at-dot"
    _, first = submitted(inst, local)
    assert first is not None
    send(inst)
    days_pass(inst, 8)
    _, second = submitted(inst, local)
    send(inst)
    days_pass(inst, 8)
    assert second is not None
    assert resubmitted(inst, Chosen(loose_mail_ids=[first, second])) == ([second], [first])
    send(inst)
    assert resubmit(inst, Chosen(campaign="letter")).numbers == [second], (
        "its own history is not another mail"
    )

"""A relay defers some messages at first: their child finishes, and they come back as loose mails (6.3, 6.4)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.dead_letters import Chosen, delete_loose_mails, resubmit_loose_mails
from mail_orchestration.dispatch.loose_mail_lists import delivery_log, list_loose_mails
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.feedback.reports import mail_job_report
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.loose_mail_states import LooseMailState
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import has_work, run_shift
from tests.scenarios.installations import address_of, execute, now, released, state, tally
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.relays.scripted import Script
from tests.scenarios.retry_site import retry, retry_until_nothing_waits, send_mail_jobs, site, waiting

CONTACTS = 1000
GREYLISTED = [f"once-451-at-rcpt-4-7-1-r{n}" for n in range(CONTACTS // 50)]


def one_in_fifty(locals_: list[str]) -> list[str]:
    """CONTACTS local parts, one in fifty of which is one of these, in their order."""
    who = [f"r{n}" for n in range(CONTACTS - len(locals_))]
    for place, local in enumerate(locals_):
        who.insert(50 * place, local)
    return who


@pytest.mark.rule("6.2")
@pytest.mark.rule("6.3")
@pytest.mark.rule("6.4")
@pytest.mark.rule("1.8")
def test_greylisted_messages_are_all_delivered_and_none_twice(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = one_in_fifty(GREYLISTED)
    with relay_beside() as server, site(tmp_path, server, database_url, monkeypatch, who) as inst:
        release_id = released(inst)
        send_mail_jobs(inst, monkeypatch)
        assert state(inst, release_id)[0] is MailJobState.P_FINISHED, "the children do not wait"
        found = tally(inst, release_id)
        assert (found.accepted, found.deferred) == (CONTACTS - len(GREYLISTED), len(GREYLISTED))
        assert waiting(inst) == {LooseMailState.SCHEDULED: len(GREYLISTED)}
        assert has_work(inst, "m1"), "any worker takes any"
        with inst.database.begin() as connection:
            mail_job_report(connection, release_id)
            connection.execute(text("UPDATE release SET reported_at = now()"))

        summary = run_shift(inst, "m1", stop=threading.Event())

        assert (summary.mail_jobs, summary.loose_mails) == (0, len(GREYLISTED))
        assert waiting(inst) == {}
        assert not has_work(inst, "m1")
        found = tally(inst, release_id)
        assert (found.accepted, found.deferred) == (CONTACTS, 0)
        assert server.accepted == dict.fromkeys(map(address_of, who), 1)
        assert {server.tries[local] for local in GREYLISTED} == {2}
        for address, copies in server.received.items():
            assert all(address.encode() in copy for copy in copies), "each gets his own, of all in a block"
        with inst.database.begin() as connection:
            parent, made = mail_job(connection, release_id), children(connection, release_id)
            logged = delivery_log(connection, inst.installation_id)
            reported_at = connection.scalar(text("SELECT reported_at FROM release"))
            wrong = connection.scalar(text(FIGURES_THAT_ARE_NOT_THOSE_OF_RESULTS))
        assert (parent.accepted, parent.deferred) == (CONTACTS, 0)
        assert sum(each.accepted for each in made) == CONTACTS
        assert wrong == 0
        assert {(each.outcome, each.attempts, each.relay) for each in logged} == {
            (Outcome.ACCEPTED, 2, "sink")
        }
        assert {each.address for each in logged} == set(map(address_of, GREYLISTED))
        assert reported_at is None, "it is reported on once more"


FIGURES_THAT_ARE_NOT_THOSE_OF_RESULTS = """
    SELECT count(*) FROM mail_job AS j WHERE kind <> 'parent' AND (accepted, deferred, rejected) <> (
        SELECT count(*) FILTER (WHERE outcome = 'accepted'),
            count(*) FILTER (WHERE outcome = 'deferred') - count(*) FILTER (WHERE supersedes = 'deferred'),
            count(*) FILTER (WHERE outcome = 'rejected')
        FROM result WHERE result.mail_job_id = j.mail_job_id
    )
"""


@pytest.mark.rule("6.3")
@pytest.mark.rule("2.4")
def test_after_the_most_attempts_it_is_a_dead_letter_until_somebody_resubmits_it(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    never, late = "450-at-dot-4-2-1", "r1"
    with (
        relay_beside(Script(defers_first=10)) as server,
        site(tmp_path, server, database_url, monkeypatch, [never, late]) as inst,
    ):
        release_id = released(inst)
        send_mail_jobs(inst, monkeypatch)
        retry_until_nothing_waits(inst)
        assert waiting(inst) == {LooseMailState.FAILED: 2}
        assert server.tries == {never: 5, late: 5, "bounces": 10}
        retry(inst)
        assert server.tries[late] == 5, "nothing more is done unasked"
        found = tally(inst, release_id)
        assert found.deferred == 2

        with inst.database.begin() as connection:
            first, second = list_loose_mails(connection, inst.installation_id)
            assert {each.code for each in (first, second)} == {"recipient_not_accepted"}
            resubmitted = resubmit_loose_mails(
                connection,
                inst.installation_id,
                Chosen(campaign="letter"),
                history=inst.settings.retention.history,
                now=now(),
            )
        assert resubmitted.numbers == sorted([first.loose_mail_id, second.loose_mail_id])
        retry_until_nothing_waits(inst)
        found = tally(inst, release_id)
        assert (found.accepted, found.deferred) == (1, 1)
        assert server.accepted == {address_of(late): 1}
        copies = server.received[address_of(never)]
        assert len(copies) == 5
        assert len(set(copies)) == 1, "byte for byte the same, Message-ID and all"
        with inst.database.begin() as connection:
            (dead,) = list_loose_mails(connection, inst.installation_id)
            assert (dead.state, dead.attempts, dead.reply_code) == (LooseMailState.FAILED, 5, 450)
            chosen = Chosen(loose_mail_ids=[dead.loose_mail_id, 10**9])
            assert delete_loose_mails(connection, inst.installation_id, chosen, by="somebody", now=now()) == [
                dead.loose_mail_id
            ]
            last, *_ = delivery_log(connection, inst.installation_id)
        assert (last.loose_mail_id, last.outcome, last.deleted_by) == (
            dead.loose_mail_id,
            Outcome.DEFERRED,
            "somebody",
        )
        assert tally(inst, release_id).deferred == 1


@pytest.mark.rule("6.4", "1.8")
def test_of_one_in_fifty_that_a_relay_rejects_exactly_those_are_rejected_and_suppressed(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = [f"550-at-rcpt-5-1-1-r{n}" for n in range(CONTACTS // 50)]
    who = one_in_fifty(gone)
    assert [place for place, local in enumerate(who) if local in gone] == list(range(0, CONTACTS, 50))
    with relay_beside() as server, site(tmp_path, server, database_url, monkeypatch, who) as inst:
        release_id = released(inst)
        send_mail_jobs(inst, monkeypatch)
        found = tally(inst, release_id)
        assert (found.accepted, found.rejected, found.deferred) == (CONTACTS - len(gone), len(gone), 0)
        assert rejected(inst) == {address_of(local): "550 5.1.1" for local in gone}
        assert suppressed(inst) == rejected(inst)
        assert server.accepted == {address_of(local): 1 for local in who if local not in gone}
        assert {server.tries[local] for local in gone} == {1}, "they are asked for once"


@pytest.mark.rule("6.4")
def test_a_rejecting_relay_has_exactly_the_addresses_suppressed_that_it_speaks_of(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard = [f"550-at-rcpt-5-1-1-r{n}" for n in range(20)]
    late = [f"550-at-dot-5-1-1-r{n}" for n in range(2)]
    about_us = [f"554-at-dot-5-7-1-r{n}" for n in range(5)]
    full = [f"552-at-dot-5-2-2-r{n}" for n in range(5)]
    who = [*late, *hard, *about_us, *full, *(f"r{n}" for n in range(318))]
    with (
        relay_beside(Script(defers_first=len(late))) as server,
        site(tmp_path, server, database_url, monkeypatch, who, connections=1) as inst,
    ):
        release_id = released(inst)
        send_mail_jobs(inst, monkeypatch)
        assert suppressed(inst) == {address_of(local): "550 5.1.1" for local in hard}
        retry_until_nothing_waits(inst)
        found = tally(inst, release_id)
        assert (found.accepted, found.rejected, found.deferred) == (318, 32, 0)
        assert suppressed(inst) == {address_of(local): "550 5.1.1" for local in [*hard, *late]}


def rejected(inst: Installation) -> dict[str, str]:
    """Address → the relay's codes, of all results that say so."""
    with inst.database.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT address, concat_ws(' ', reply_code, enhanced_code) AS codes "
                "FROM result INNER JOIN contact USING (contact_id) WHERE outcome = 'rejected'"
            )
        ).all()
    return {row.address: row.codes for row in rows}


def suppressed(inst: Installation) -> dict[str, str]:
    with inst.database.begin() as connection:
        rows = connection.execute(
            text("SELECT address, reason, detail FROM suppression INNER JOIN contact USING (contact_id)")
        ).all()
    assert {row.reason for row in rows} <= {"hard_bounce"}
    return {row.address: row.detail for row in rows}


@pytest.mark.rule("6.4")
def test_421_counts_no_attempt(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        relay_beside(Script(defers_first=1)) as server,
        site(tmp_path, server, database_url, monkeypatch, ["r1"], max_attempts=2) as inst,
    ):
        release_id = released(inst)
        send_mail_jobs(inst, monkeypatch)
        server.script.once["mail"] = ["421"] * 3
        retry(inst)
        with inst.database.begin() as connection:
            (mail,) = list_loose_mails(connection, inst.installation_id)
        assert (mail.state, mail.attempts, mail.reply_code) == (LooseMailState.SCHEDULED, 1, 421)
        assert (mail.due_at - now()).total_seconds() > 30, "not at once"
        execute(inst, "UPDATE loose_mail SET due_at = now()")
        retry(inst)
        assert server.accepted == {address_of("r1"): 1}
        assert tally(inst, release_id).accepted == 1


@pytest.mark.rule("5.7")
@pytest.mark.parametrize(("on_uncertain", "attempts"), [("resend", 3), ("hold", 2)])
def test_a_retry_that_may_have_arrived_is_sent_again_or_left_to_the_operator(
    on_uncertain: str, attempts: int, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, campaign = "drop-at-dot-r1", {"on_uncertain": on_uncertain}
    with (
        relay_beside(Script(defers_first=1)) as server,
        site(tmp_path, server, database_url, monkeypatch, [local], campaign=campaign, max_attempts=3) as inst,
    ):
        release_id = released(inst)
        send_mail_jobs(inst, monkeypatch)
        retry_until_nothing_waits(inst)
        assert waiting(inst) == {}
        assert server.tries[local] == attempts
        assert tally(inst, release_id).uncertain == 1
        with inst.database.begin() as connection:
            (logged,) = delivery_log(connection, inst.installation_id)
        assert (logged.outcome, logged.attempts) == (Outcome.UNCERTAIN, attempts)


@pytest.mark.rule("1.5")
@pytest.mark.rule("3.6")
@pytest.mark.rule("1.8")
@pytest.mark.parametrize("why", ["suppressed", "expired"])
def test_what_must_not_be_sent_any_more_ends_without_another_attempt(
    why: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        relay_beside(Script(defers_first=2)) as server,
        site(tmp_path, server, database_url, monkeypatch, ["r1", "r2"]) as inst,
    ):
        release_id = released(inst)
        send_mail_jobs(inst, monkeypatch)
        if why == "suppressed":
            execute(
                inst,
                "INSERT INTO suppression (contact_id, reason) SELECT contact_id, 'opted_out' FROM contact",
            )
        else:
            execute(inst, "UPDATE loose_mail SET expires_at = now()")
        retry(inst)
        assert waiting(inst) == {}
        assert not server.accepted
        found = tally(inst, release_id)
        assert (found.stopped, found.expired) == ((2, 0) if why == "suppressed" else (0, 2))
        with inst.database.begin() as connection:
            logged = delivery_log(connection, inst.installation_id)
        outcome = Outcome.STOPPED if why == "suppressed" else Outcome.EXPIRED
        assert {(each.outcome, each.attempts, each.relay) for each in logged} == {(outcome, 1, "")}


@pytest.mark.rule("6.3")
def test_a_release_that_cannot_be_read_holds_up_nobody_else(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        relay_beside(Script(defers_first=1)) as server,
        site(tmp_path, server, database_url, monkeypatch, ["r1"]) as inst,
    ):
        broken = released(inst)
        send_mail_jobs(inst, monkeypatch)
        execute(
            inst,
            "UPDATE release SET files = files || jsonb_build_object('campaign.yaml', repeat('0', 64)) "
            "WHERE release_id = :id",
            id=broken,
        )
        sound = released(inst, again=True)
        send_mail_jobs(inst, monkeypatch)
        retry_until_nothing_waits(inst)
        assert waiting(inst) == {LooseMailState.FAILED: 1}
        assert (tally(inst, broken).deferred, tally(inst, sound).accepted) == (1, 1)
        with inst.database.begin() as connection:
            (mail,) = list_loose_mails(connection, inst.installation_id)
        assert (mail.release_id, mail.code) == (broken, "failed_to_load_campaign_or_document")

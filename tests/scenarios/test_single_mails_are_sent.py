"""One mail to one address: sent now or at its time, in order, ahead of bulk mail; and what fails says why (7)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration import campaigns
from mail_orchestration.audience.suppressing import suppress_address
from mail_orchestration.dispatch.dead_letters import Chosen
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.mailcaster import run_shift
from mail_orchestration.single_mailer import (
    Submission,
    delete,
    failures,
    resubmit,
    run_loose_shift,
    submit,
)
from tests.scenarios.installations import (
    address_of,
    durable_results,
    execute,
    now,
    released,
    wait_for_results,
    write_site,
)
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.relays.scripted import Script
from tests.scenarios.single_mail_site import logged, mail, send, site, states

REFUSED = {
    "550-at-rcpt-5-1-1": FailureCode.RECIPIENT_NOT_ACCEPTED,
    "550-at-rcpt-5-1-3": FailureCode.BAD_EMAIL_ADDRESS,
    "552-at-data": FailureCode.DATA_NOT_ACCEPTED,
    "554-at-dot-5-7-1": FailureCode.DATA_NOT_ACCEPTED,
}


@pytest.mark.rule("7.1")
@pytest.mark.rule("7.3")
@pytest.mark.rule("6.4")
def test_a_mail_ends_in_the_log_or_fails_with_a_code(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relay_beside() as server, site(tmp_path, server, database_url, monkeypatch) as inst:
        write_site(
            tmp_path / "other",
            relay_port=9,
            campaign={"name": "banned", "envelope_sender": "550-at-mail-5-7-1@example.org"},
        )
        letters = [mail(), mail("ben"), *(mail(local) for local in REFUSED)]
        unnamed = mail("dee", attributes={"number": 2})
        banned = mail("cid", campaign=tmp_path / "other" / "campaigns" / "letter")
        later = mail("eve", at=now() + timedelta(hours=1))
        assert all(each.submission.is_taken for each in submit(inst, [*letters, unnamed, banned, later]))

        assert send(inst) == {Outcome.ACCEPTED: 2, Outcome.REJECTED: len(REFUSED) + 1}

        assert server.accepted == {address_of("ann"): 1, address_of("ben"): 1}
        assert logged(inst) == {"ann": Outcome.ACCEPTED, "ben": Outcome.ACCEPTED}
        assert states(inst) == {
            **dict.fromkeys([*REFUSED, "dee", "cid"], "FAILED"),
            "eve": "SCHEDULED",
        }
        groups = {(each.campaign, each.code): each.mails for each in failures(inst)}
        assert groups == {
            ("letter", FailureCode.DATA_NOT_ACCEPTED): 2,
            ("letter", FailureCode.RECIPIENT_NOT_ACCEPTED): 1,
            ("letter", FailureCode.BAD_EMAIL_ADDRESS): 1,
            ("letter", FailureCode.RENDERING_EXCEPTION): 1,
            ("banned", FailureCode.SENDER_NOT_ACCEPTED): 1,
        }
        [rendering] = [each for each in failures(inst) if each.code is FailureCode.RENDERING_EXCEPTION]
        assert "'name' is undefined" in (rendering.description or "")
        with inst.database.begin() as connection:
            suppressed = connection.scalars(
                text("SELECT address FROM suppression INNER JOIN contact USING (contact_id) ORDER BY 1")
            ).all()
        assert suppressed == [address_of("550-at-rcpt-5-1-1"), address_of("550-at-rcpt-5-1-3")]
        [again] = submit(inst, mail("550-at-rcpt-5-1-1", occurrence="another day"))
        assert (again.submission, again.reason) == (Submission.SUPPRESSED, "hard_bounce")


@pytest.mark.rule("7.3")
@pytest.mark.rule("6.6")
def test_what_failed_is_resubmitted_or_deleted(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relay_beside() as server, site(tmp_path, server, database_url, monkeypatch) as inst:
        unnamed = mail("ben", attributes={"number": 1})
        submit(inst, [mail("once-554-at-dot"), mail("554-at-dot"), unnamed])
        send(inst)
        assert set(states(inst).values()) == {"FAILED"}
        refused = Chosen(code=FailureCode.DATA_NOT_ACCEPTED)
        assert len(resubmit(inst, refused).numbers) == 2
        assert send(inst) == {Outcome.ACCEPTED: 1, Outcome.REJECTED: 1}
        first, second = server.received[address_of("once-554-at-dot")]
        assert first == second, "a repeat is the same octets"
        # What never was composed says what its campaign says now: nothing else would help it.
        template = tmp_path / "campaigns" / "letter" / "message.html.j2"
        template.write_text("<p>{{ number", encoding="utf-8")
        with pytest.raises(
            BadInput, match=r"letter has mails that were never composed \(1\).* message\.html\.j2:1"
        ):
            resubmit(inst, Chosen(campaign="letter"))
        assert len(resubmit(inst, Chosen(campaign="letter"), as_frozen=True).numbers) == 2
        send(inst)
        assert states(inst) == {"554-at-dot": "FAILED", "ben": "FAILED"}
        write_site(
            tmp_path, relay_port=server.port, campaign={"subject": "Hello"}, html="<p>No. {{ number }}</p>"
        )
        assert len(resubmit(inst, Chosen(code=FailureCode.RENDERING_EXCEPTION)).numbers) == 1
        assert send(inst) == {Outcome.ACCEPTED: 1}
        assert b"Subject: Hello" in server.data[address_of("ben")]
        write_site(tmp_path, relay_port=server.port)
        [repeated] = submit(inst, mail("554-at-dot"))
        assert repeated.submission is Submission.DUPLICATE, "it is still there, to be resubmitted"
        assert len(delete(inst, Chosen(campaign="letter"), by="me")) == 1
        assert (states(inst), logged(inst)["554-at-dot"]) == ({}, Outcome.REJECTED)
        [anew] = submit(inst, mail("554-at-dot"))
        assert anew.submission is Submission.QUEUED


@pytest.mark.rule("6.3")
@pytest.mark.rule("6.4")
@pytest.mark.rule("7.3")
def test_a_deferred_mail_comes_again_with_the_same_octets_until_it_is_a_failure(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        relay_beside() as server,
        site(
            tmp_path,
            server,
            database_url,
            monkeypatch,
            dispatcher={"retry_after_minutes": 0.0001, "max_attempts": 3},
        ) as inst,
    ):
        submit(inst, [mail("once-451-at-dot"), mail("451-at-rcpt")])
        send(inst)
        while "SCHEDULED" in states(inst).values():
            send(inst)
        assert server.accepted == {address_of("once-451-at-dot"): 1}
        first, second = server.received[address_of("once-451-at-dot")]
        assert first == second
        assert server.tries["451-at-rcpt"] == 3
        assert states(inst) == {"451-at-rcpt": "FAILED"}
        assert [each.code for each in failures(inst)] == [FailureCode.RECIPIENT_NOT_ACCEPTED]


@pytest.mark.rule("7.1")
@pytest.mark.rule("3.4")
def test_a_campaign_holds_its_mails_and_stops_them(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relay_beside() as server, site(tmp_path, server, database_url, monkeypatch) as inst:
        submit(inst, [mail(), mail("ben", at=now() + timedelta(hours=1))])
        campaigns.pause(inst, "letter")
        submit(inst, mail("cid"))
        assert set(states(inst).values()) == {"PAUSED"}
        assert send(inst) == {}
        campaigns.resume(inst, "letter")
        assert send(inst) == {Outcome.ACCEPTED: 2}
        assert states(inst) == {"ben": "SCHEDULED"}
        campaigns.delete(inst, "letter", now=now())
        assert states(inst) == {"ben": "STOPPED"}
        assert send(inst) == {}
        assert server.accepted == {address_of("ann"): 1, address_of("cid"): 1}


@pytest.mark.rule("1.5")
@pytest.mark.rule("6.6")
def test_who_opts_out_meanwhile_gets_nothing_and_may_be_written_to_later(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relay_beside() as server, site(tmp_path, server, database_url, monkeypatch) as inst:
        submit(inst, mail())
        with inst.database.begin() as connection:
            suppress_address(connection, inst.installation_id, address_of("ann"), "opted_out", now=now())
        assert send(inst) == {Outcome.STOPPED: 1}
        assert (states(inst), logged(inst)) == ({}, {"ann": Outcome.STOPPED})
        execute(inst, "DELETE FROM suppression")
        assert [each.submission for each in submit(inst, mail())] == [Submission.QUEUED]
        assert not server.accepted


@pytest.mark.rule("1.5")
def test_who_opted_out_gets_what_is_transactional(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        relay_beside() as server,
        site(tmp_path, server, database_url, monkeypatch, campaign={"transactional": True}) as inst,
    ):
        submit(inst, [mail(), mail("ben")])
        with inst.database.begin() as connection:
            suppress_address(connection, inst.installation_id, address_of("ann"), "opted_out", now=now())
            suppress_address(connection, inst.installation_id, address_of("ben"), "complaint", now=now())
        assert send(inst) == {Outcome.ACCEPTED: 1, Outcome.STOPPED: 1}
        assert server.accepted == {address_of("ann"): 1}


@pytest.mark.rule("7.2")
def test_mails_go_in_their_order_and_a_dead_mailers_are_taken_by_another(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relay_beside() as server, site(tmp_path, server, database_url, monkeypatch) as inst:
        submit(
            inst,
            [mail("late"), mail("soon", priority=5), mail("later", priority=-5), mail("dead", priority=9)],
        )
        execute(
            inst,
            "UPDATE loose_mail SET state = 'SENDING', worker = 'gone', fence = 1, reserved_until = now() "
            "WHERE address LIKE 'dead@%'",
        )
        run_loose_shift(inst, "s1", stop=threading.Event(), connections=1)
        assert list(server.accepted) == [address_of(local) for local in ("dead", "soon", "late", "later")]


@pytest.mark.rule("7.2")
@pytest.mark.rule("7.4")
def test_what_is_submitted_goes_at_once_while_the_mailer_lingers(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        relay_beside() as server,
        site(tmp_path, server, database_url, monkeypatch) as inst,
        ThreadPoolExecutor(1) as pool,
    ):
        stop, went = threading.Event(), threading.Event()
        server.when_accepted(2, went.set)
        shift = pool.submit(run_loose_shift, inst, "s1", stop=stop, linger_s=600)
        submit(inst, mail())
        submit(inst, mail("ben"))
        assert went.wait(60)
        stop.set()
        assert shift.result(60).ended_because == "stopped"
        assert server.accepted == {address_of("ann"): 1, address_of("ben"): 1}


@pytest.mark.rule("7.4")
@pytest.mark.rule("8.6")
def test_single_mails_overtake_a_mail_job_and_are_not_counted(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        relay_beside(Script(reply_delay_s=0.02)) as server,
        site(
            tmp_path,
            server,
            database_url,
            monkeypatch,
            contacts=2000,
            mailcasters=[{"name": "m1", "connections": 2}],
        ) as inst,
        ThreadPoolExecutor(1) as pool,
    ):
        released(inst)
        stop = threading.Event()
        bulk = pool.submit(run_shift, inst, "m1", stop=stop)
        wait_for_results(inst, 10)
        bulk_before = durable_results(inst)
        singles = [f"single{n}" for n in range(20)]
        submit(inst, [mail(local) for local in singles])
        assert send(inst) == {Outcome.ACCEPTED: len(singles)}
        assert durable_results(inst) < 2000, "the mail job is in the midst of its work"
        wait_for_results(inst, bulk_before + 10)
        stop.set()
        bulk.result(60)
        assert all(server.accepted[address_of(local)] == 1 for local in singles)
        with inst.database.begin() as connection:
            counted = connection.scalar(
                text(
                    "SELECT count(*) FROM result INNER JOIN contact USING (contact_id) WHERE address LIKE 'single%'"
                )
            )
        assert counted == 0, "the frequency policy counts results"

"""How a mailcaster ends what it took: opt-outs, expiry, relays that fail or refuse, components around the send."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.kernel.model import Bypass, Recipient
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.mailcaster import run_shift
from mail_orchestration.sending.components_see import MessageInHand, MessageWithResult
from tests.scenarios.installations import opened, released, site_with_sink, state, tally, write_site


def broken(recipients: Sequence[Recipient]) -> None:
    """A component that fails."""
    raise RuntimeError("no")


@pytest.mark.rule("1.5")
@pytest.mark.rule("3.6")
def test_opt_outs_and_expiry_after_assembly_are_honoured(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_with_sink(tmp_path, database_url, monkeypatch, contacts=50) as (inst, sink):
        release_id = released(inst)
        with inst.database.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO suppression (contact_id, reason) "
                    "SELECT contact_id, 'opted_out' FROM contact WHERE address LIKE 'r1%'"
                )
            )
        run_shift(inst, "m1", stop=threading.Event())
        found = tally(inst, release_id)
        assert (found.accepted, found.stopped) == (39, 11)
        assert not [address for address in sink.tally() if address.startswith("r1")]

        second = released(inst, again=True)
        with inst.database.begin() as connection:
            connection.execute(text("UPDATE release SET expires_at = now() - interval '1 second'"))
        run_shift(inst, "m1", stop=threading.Event())
        assert tally(inst, second).accepted == 0
        assert state(inst, second)[0] is MailJobState.FINISHED
        assert sink.tally().total() == 39


@pytest.mark.rule("3.7")
def test_a_mail_job_whose_relay_cannot_be_reached_fails_and_keeps_what_is_unsent(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = write_site(
        tmp_path, relay_port=9, contacts=50, dispatcher={"relay_unreachable_after_seconds": 0.5}
    )
    with opened(settings, database_url, monkeypatch) as inst:
        release_id = released(inst)
        run_shift(inst, "m1", stop=threading.Event())
        failed, reason = state(inst, release_id)
        assert failed is MailJobState.FAILED
        assert "sink" in reason
        found = tally(inst, release_id)
        assert (found.waiting, found.accepted) == (50, 0)


@pytest.mark.rule("3.7")
def test_a_mail_job_of_which_too_much_is_refused_fails(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        sink_options=("-f", "RCPT", "-B", "550 5.1.1 nobody here"),
        contacts=300,
        mailcasters=[{"name": "m1", "min_job_size": 299, "max_job_size": 300}],
    ) as (inst, _):
        release_id = released(inst)
        run_shift(inst, "m1", stop=threading.Event())
        failed, _ = state(inst, release_id)
        assert failed is MailJobState.P_FAILED
        found = tally(inst, release_id)
        assert 100 <= found.rejected < 300
        assert found.rejected + found.waiting == 300


SEEN: list[tuple[int, str]] = []


def keep_back_evens(messages: Sequence[MessageInHand]) -> list[Bypass]:
    """A component of the stage send."""
    return [
        Bypass(recipient_no=each.recipient_no, reason="even")
        for each in messages
        if each.recipient_no % 2 == 0
    ]


def note(finished: Sequence[MessageWithResult]) -> None:
    """A component of the stage postprocess."""
    SEEN.extend((each.recipient_no, each.result.outcome.value) for each in finished)


@pytest.mark.rule("1.6")
@pytest.mark.rule("1.8")
def test_components_around_the_send_keep_back_and_are_told(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    SEEN.clear()
    components = {"send": [f"{__name__}:keep_back_evens"], "postprocess": [f"{__name__}:note"]}
    with site_with_sink(
        tmp_path, database_url, monkeypatch, contacts=90, campaign={"components": components}
    ) as (inst, sink):
        release_id = released(inst)
        run_shift(inst, "m1", stop=threading.Event())
        found = tally(inst, release_id)
        assert (found.accepted, found.stopped) == (45, 45)
        assert sorted(SEEN) == [(n, "accepted") for n in range(1, 91, 2)]
        assert (sink.tally().total(), max(sink.tally().values())) == (45, 1)


@pytest.mark.rule("1.6")
@pytest.mark.parametrize("stage", ["throttle", "send", "postprocess"])
def test_a_component_around_the_send_that_raises_fails_the_mail_job(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    with site_with_sink(
        tmp_path,
        database_url,
        monkeypatch,
        contacts=90,
        campaign={"components": {stage: [f"{__name__}:broken"]}},
    ) as (inst, sink):
        release_id = released(inst)
        run_shift(inst, "m1", stop=threading.Event())
        failed, reason = state(inst, release_id)
        assert failed is MailJobState.FAILED
        assert f"{__name__}:broken (stage {stage})" in reason
        found = tally(inst, release_id)
        assert found.accepted == (90 if stage == "postprocess" else 0)
        assert sink.tally().total() == found.accepted

"""Single mails are composed when they are sent: once, from what was frozen, and what cannot be composed says why."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mail_orchestration.broadcast import fill_audience
from mail_orchestration.composition import assembly
from mail_orchestration.composition.assembly import Limits
from mail_orchestration.composition.errors import BadStoredMessage
from mail_orchestration.dispatch.loose_mails import ReservedMail, give_back, reserve_loose_mails
from mail_orchestration.dispatch.releases import freeze_content
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.kernel.loose_mail_states import LooseMailKind
from mail_orchestration.kernel.model import Bypass, Recipient
from mail_orchestration.sending.preparing import NotSent, Prepared, Ready, Unsendable
from mail_orchestration.sending.singles import SinglePreparer
from mail_orchestration.single_mailer import SingleMail, submit
from tests.integration.broadcast_site import inst
from tests.scenarios.installations import now, write_site

__all__ = ["inst"]


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    write_site(tmp_path, relay_port=9, contacts=3)
    return tmp_path


def mails(inst: Installation, *mails: SingleMail) -> list[ReservedMail]:
    """Submit these, and have in hand all that waits."""
    assert all(answer.submission.is_taken for answer in submit(inst, mails))
    return reserved(inst)


def reserved(inst: Installation) -> list[ReservedMail]:
    with inst.database.begin() as connection:
        return reserve_loose_mails(
            connection,
            inst.installation_id,
            "worker",
            kinds=[LooseMailKind.SINGLE],
            most=100,
            for_s=1800,
            now=now(),
            began=steady_seconds(),
        )


def mail(to: str = "ann@example.com", campaign: str = "letter", **attributes: Any) -> SingleMail:
    return SingleMail(campaign=campaign, to=to, attributes={"name": "Ann", "number": 1, **attributes})


@dataclass(frozen=True)
class Sorted:
    """What became of some mails, by what became of them."""

    ready: list[Ready]
    unsendable: list[Unsendable]
    not_sent: list[NotSent]

    @classmethod
    def of(cls, those: Sequence[Prepared]) -> Sorted:
        return cls(
            *([each for each in those if isinstance(each, kind)] for kind in (Ready, Unsendable, NotSent))
        )


def prepared(inst: Installation, mails: Sequence[ReservedMail]) -> Sorted:
    preparer = SinglePreparer(inst, now)
    try:
        return Sorted.of(asyncio.run(preparer.prepare(mails)))
    finally:
        preparer.close()


def parsed(data: bytes) -> EmailMessage:
    return email.message_from_bytes(data, _class=EmailMessage, policy=email.policy.default)


def only_code(found: Sorted) -> tuple[FailureCode, str]:
    [one] = found.unsendable
    assert (found.ready, found.not_sent) == ([], [])
    return one.code, one.why


def change_file(inst: Installation, path: str, content: bytes | None) -> None:
    """What was frozen under `path` is something else now, or gone: such as after an upgrade, or a bad restore."""
    with inst.database.begin() as connection:
        sha256 = b"\0" * 32 if content is None else freeze_content(connection, content)
        connection.execute(
            text("UPDATE frozen_campaign SET files = files || CAST(:changed AS jsonb)"),
            {"changed": json.dumps({path: sha256.hex()})},
        )


@pytest.mark.rule("7.1")
def test_a_mail_is_composed_once_from_what_was_frozen(inst: Installation, site: Path) -> None:
    submit(inst, [mail(), mail("ben@example.com", name="Ben")])
    write_site(site, relay_port=9, campaign={"subject": "Edited since"})
    began = now()
    first = prepared(inst, reserved(inst))
    messages = [each.compose() for each in first.ready]
    assert [message.address for message in messages] == ["ann@example.com", "ben@example.com"]
    assert {message.reverse_path for message in messages} == {"bounces@example.org"}
    ann, ben = (parsed(message.data) for message in messages)
    assert (ann["To"], ann["Subject"], ben["Subject"]) == (
        "ann@example.com",
        "A letter to Ann",
        "A letter to Ben",
    )
    assert began.replace(microsecond=0) <= ann["Date"].datetime <= now()
    assert ann["Message-ID"] != ben["Message-ID"]
    with inst.database.begin() as connection:
        give_back(connection, [each.mail for each in first.ready])
    change_file(inst, "message.html.j2", b"<p>{{ nothing_of_this_is_looked_at }}</p>")
    again = prepared(inst, reserved(inst))
    assert [(each.address, each.data) for each in (each.compose() for each in again.ready)] == [
        (each.address, each.data) for each in messages
    ]


@pytest.mark.rule("7.1")
def test_a_member_has_her_details_and_the_mails_own_win(inst: Installation) -> None:
    fill_audience(inst, "everybody", now=now())
    found = prepared(
        inst, mails(inst, SingleMail(campaign="letter", to="R2@example.net", attributes={"number": 7}))
    )
    message = parsed(found.ready[0].compose().data)
    assert (message["To"], message["Subject"]) == ("R2@example.net", "A letter to Reader 2")
    assert "this is number 7" in str(message.get_body(("plain",)))


@pytest.mark.rule("7.3")
def test_a_template_that_fails_for_one_is_that_ones_failure(inst: Installation) -> None:
    waiting = mails(inst, mail(), SingleMail(campaign="letter", to="ben@example.com", attributes={}))
    found = prepared(inst, waiting)
    [failed] = found.unsendable
    assert (failed.mail.address, failed.code) == ("ben@example.com", FailureCode.RENDERING_EXCEPTION)
    assert "'name' is undefined" in failed.why
    assert [each.mail.address for each in found.ready] == ["ann@example.com"]


@pytest.mark.rule("7.3")
def test_a_template_without_end_holds_up_nobody_else(
    inst: Installation, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "Limits", partial(Limits, message_cpu_seconds=0.2))
    endless = shutil.copytree(site / "campaigns" / "letter", site / "campaigns" / "endless")
    definition = (endless / "campaign.yaml").read_text(encoding="utf-8")
    (endless / "campaign.yaml").write_text(definition.replace("name: letter", "name: endless"))
    (endless / "message.html.j2").write_text(ENDLESS)
    bad = [mail(f"r{n}@example.com", campaign="endless") for n in range(6)]
    found = prepared(inst, mails(inst, *bad, mail()))
    assert {each.code for each in found.unsendable} == {FailureCode.RENDERING_EXCEPTION}
    assert (len(found.unsendable), [each.mail.address for each in found.ready]) == (6, ["ann@example.com"])


@pytest.mark.rule("7.3")
@pytest.mark.parametrize(
    ("path", "content", "code", "said"),
    [
        ("message.html.j2", None, FailureCode.CAMPAIGN_NOT_LOADED, "message.html.j2 is not in the database"),
        ("campaign.yaml", b"name: [", FailureCode.CAMPAIGN_NOT_LOADED, "campaign.yaml:"),
        ("message.html.j2", b"<p>{{ x", FailureCode.TEMPLATE_FORMAT_EXCEPTION, "message.html.j2:1"),
    ],
)
def test_what_was_frozen_and_cannot_be_used_is_told(
    inst: Installation, path: str, content: bytes | None, code: FailureCode, said: str
) -> None:
    waiting = mails(inst, mail())
    change_file(inst, path, content)
    found, reason = only_code(prepared(inst, waiting))
    assert found is code
    assert said in reason


def fails(recipients: Sequence[Recipient]) -> None:
    raise ZeroDivisionError(recipients[0].address)


def skips_ann(recipients: Sequence[Recipient]) -> Iterator[Bypass]:
    yield from (
        Bypass(recipient_no=each.recipient_no, reason="not_ann")
        for each in recipients
        if each.address.startswith("ann@")
    )


@pytest.mark.rule("7.3")
@pytest.mark.rule("1.6")
def test_components_that_look_at_recipients_see_single_mails(inst: Installation, site: Path) -> None:
    write_site(site, relay_port=9, campaign={"components": {"compose": [f"{__name__}:fails"]}})
    code, reason = only_code(prepared(inst, mails(inst, mail())))
    assert code is FailureCode.CUSTOM_FUNCTION_FAILED
    assert f"{__name__}:fails (stage compose) raised: ZeroDivisionError" in reason
    write_site(site, relay_port=9, campaign={"components": {"filter": [f"{__name__}:skips_ann"]}})
    found = prepared(inst, mails(inst, mail(), mail("ben@example.com")))
    assert [(each.outcome, each.why) for each in found.not_sent] == [(Outcome.STOPPED, "not_ann")]
    assert [each.mail.address for each in found.ready] == ["ben@example.com"]


@pytest.mark.rule("7.3")
def test_a_page_that_cannot_be_fetched_is_an_io_exception(inst: Installation, site: Path) -> None:
    write_site(site, relay_port=9, campaign={"content_url": "http://127.0.0.1:9/page"})
    (site / "campaigns" / "letter" / "message.html.j2").unlink()
    assert only_code(prepared(inst, mails(inst, mail())))[0] is FailureCode.IO_EXCEPTION


@pytest.mark.rule("7.2")
def test_what_was_composed_after_the_reservation_was_lost_is_not_sent(inst: Installation) -> None:
    waiting = mails(inst, mail())
    with inst.database.begin() as connection:
        connection.execute(text("UPDATE loose_mail SET fence = fence + 1"))
    found = prepared(inst, waiting)
    assert found == Sorted([], [], [])
    with inst.database.begin() as connection:
        assert connection.execute(text("SELECT message FROM loose_mail")).scalar_one() is None


@pytest.mark.rule("7.3")
def test_a_stored_message_that_cannot_be_read_is_told(inst: Installation) -> None:
    first = prepared(inst, mails(inst, mail()))
    with inst.database.begin() as connection:
        give_back(connection, [each.mail for each in first.ready])
        connection.execute(text("UPDATE loose_mail SET message = '\\x00deadbeef'"))
    [ready] = prepared(inst, reserved(inst)).ready
    with pytest.raises(BadStoredMessage, match=r"single mail \d+ cannot be read as it is stored"):
        ready.compose()


@pytest.mark.rule("7.1")
def test_two_workers_that_begin_at_once_read_each_others_messages(inst: Installation) -> None:
    one, other = mails(inst, mail(), mail("ben@example.com"))
    first, second = SinglePreparer(inst, now), SinglePreparer(inst, now)

    async def both() -> Sorted:
        return Sorted.of([*await first.prepare([one]), *await second.prepare([other])])

    found = asyncio.run(both())
    first.close()
    second.close()
    assert [each.compose().address for each in found.ready] == ["ann@example.com", "ben@example.com"]

"""Single mails are submitted: every one gets an answer, and the good ones wait in the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mail_orchestration import campaigns
from mail_orchestration.audience.suppressing import suppress_address
from mail_orchestration.broadcast import fill_audience
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.single_mailer import SingleMail, Submission, Submitted, submit
from mail_orchestration.single_mailer.submitting import MOST_AT_ONCE
from tests.scenarios.installations import now, opened, write_site

Q, S, P = Submission.QUEUED, Submission.SCHEDULED, Submission.PAUSED


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The folder of an installation whose campaign `letter` has no audience."""
    write_site(tmp_path, relay_port=9, contacts=3, campaign={"audiences": []})
    return tmp_path


@pytest.fixture
def inst(site: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    with opened(site / "mail_orchestration.yaml", database_url, monkeypatch) as opened_installation:
        yield opened_installation


def mail(to: Any = "ann@example.com", **parts: Any) -> SingleMail:
    return SingleMail(**{"campaign": "letter", "to": to, "attributes": {"name": "Ann", "number": 1}, **parts})


def stored(inst: Installation) -> Sequence[Any]:
    with inst.database.begin() as connection:
        return connection.execute(text("SELECT * FROM loose_mail ORDER BY loose_mail_id")).all()


def submissions(answers: Sequence[Submitted]) -> list[Submission]:
    return [answer.submission for answer in answers]


def change(site: Path, **campaign: Any) -> None:
    write_site(site, relay_port=9, campaign={"audiences": [], **campaign})


@pytest.mark.rule("7.1")
def test_a_mail_waits_now_or_for_its_time(inst: Installation) -> None:
    later = now() + timedelta(hours=3)
    just_gone = now() - timedelta(hours=3)
    answers = submit(
        inst,
        [mail(), mail("ben@example.com", at=later, priority=7), mail("Cid@EXAMPLE.com", at=just_gone)],
    )
    assert submissions(answers) == [Q, S, Q]
    rows = stored(inst)
    assert [(row.loose_mail_id, row.kind, row.state) for row in rows] == [
        (answer.loose_mail_id, "single", str(answer.submission).upper()) for answer in answers
    ]
    assert [row.address for row in rows] == ["ann@example.com", "ben@example.com", "Cid@example.com"]
    assert [row.due_at for row in rows] == [answer.due_at for answer in answers]
    assert rows[1].due_at == later
    assert [row.priority for row in rows] == [0, 7, 0]
    assert rows[0].attributes == {"name": "Ann", "number": 1}


@pytest.mark.rule("7.1")
def test_each_bad_mail_is_refused_with_its_reason_and_the_others_are_taken(inst: Installation) -> None:
    answers = submit(
        inst,
        [
            mail("no address"),
            mail("ann@example.com"),
            mail("ben@example.com", campaign="gone"),
            mail("cid@example.com", campaign="../letter"),
            mail("dee@example.com", at=datetime(2001, 1, 1, tzinfo=UTC)),
            mail(4711),
            mail("eve@example.com", attributes={"when": now()}),
            mail("fay@example.com"),
        ],
    )
    assert [answer.index for answer in answers] == list(range(8))
    R = Submission.REFUSED  # noqa: N806
    assert submissions(answers) == [R, Q, R, R, R, R, R, Q]
    assert [answer.code for answer in answers if answer.code] == [
        FailureCode.BAD_EMAIL_ADDRESS,
        FailureCode.CAMPAIGN_NOT_LOADED,
        FailureCode.CAMPAIGN_NOT_LOADED,
    ]
    assert "there is no campaign 'gone'" in answers[2].reason
    assert "(there are: letter)" in answers[3].reason
    assert answers[5].reason == "to: there is no contact 4711 in this installation"
    assert [row.address for row in stored(inst)] == ["ann@example.com", "fay@example.com"]
    assert not any("example.com" in answer.reason for answer in answers)


@pytest.mark.rule("7.3")
def test_a_campaign_that_cannot_be_sent_is_told_at_once(inst: Installation, site: Path) -> None:
    template = site / "campaigns" / "letter" / "message.html.j2"
    good = template.read_text(encoding="utf-8")
    template.write_text("<p>{{ name", encoding="utf-8")
    [answer] = submit(inst, mail())
    assert answer.code is FailureCode.TEMPLATE_FORMAT_EXCEPTION
    assert "message.html.j2:1: " in answer.reason
    template.write_text(good, encoding="utf-8")
    change(site, components={"filter": ["no.such:thing"]})
    [answer] = submit(inst, mail())
    assert answer.code is FailureCode.CUSTOM_FUNCTION_FAILED
    change(site, expires_at="2026-01-01T00:00:00Z")
    [answer] = submit(inst, mail())
    assert (answer.submission, answer.code) == (Submission.REFUSED, None)
    assert "expires_at has passed" in answer.reason


@pytest.mark.rule("3.6")
def test_a_mail_waits_for_the_start_of_its_campaign_and_outlives_it_not(
    inst: Installation, site: Path
) -> None:
    starts_at, expires_at = now() + timedelta(hours=1), now() + timedelta(hours=2)
    change(site, starts_at=starts_at.isoformat(), expires_at=expires_at.isoformat())
    answers = submit(inst, [mail(), mail("ben@example.com", at=expires_at)])
    assert submissions(answers) == [S, Submission.REFUSED]
    assert answers[0].due_at == starts_at
    assert [row.expires_at for row in stored(inst)] == [expires_at]


@pytest.mark.rule("7.1")
def test_what_a_mail_says_is_frozen_once_and_later_edits_change_nothing(
    inst: Installation, site: Path
) -> None:
    submit(inst, [mail(), mail("ben@example.com")])
    change(site, subject="Something else, {{ name }}")
    submit(inst, mail("cid@example.com"))
    first, second, third = (row.frozen_campaign_id for row in stored(inst))
    assert first == second != third
    with inst.database.begin() as connection:
        known = connection.execute(text("SELECT name, state FROM campaign")).all()
    assert known == [("letter", "live")]


@pytest.mark.rule("7.1")
def test_a_paused_campaign_pauses_its_mails_and_a_deleted_one_takes_none(inst: Installation) -> None:
    submit(inst, mail())
    campaigns.pause(inst, "letter")
    [paused] = submit(inst, mail("ben@example.com"))
    assert paused.submission is P
    campaigns.resume(inst, "letter")
    campaigns.delete(inst, "letter", now=now())
    [refused] = submit(inst, mail("cid@example.com"))
    assert (refused.submission, refused.reason) == (Submission.REFUSED, "campaign: letter is deleted")
    assert len(stored(inst)) == 2
    campaigns.resume(inst, "letter")
    assert submissions(submit(inst, mail("cid@example.com"))) == [Q]
    assert [row.state for row in stored(inst)] == ["STOPPED", "STOPPED", "QUEUED"]


@pytest.mark.rule("3.5")
def test_a_campaign_in_test_goes_to_its_test_addresses_as_often_as_is_asked(
    inst: Installation, site: Path
) -> None:
    change(site, state="test", test_addresses=["Boss@example.com"])
    answers = submit(inst, [mail("boss@example.com"), mail("ann@example.com"), mail("boss@example.com")])
    assert submissions(answers) == [Q, Submission.REFUSED, Q]
    assert "state test" in answers[1].reason


@pytest.mark.rule("6.6")
def test_the_same_mail_goes_once_for_each_occurrence(inst: Installation, site: Path) -> None:
    D = Submission.DUPLICATE  # noqa: N806
    order = mail(occurrence="order 7")
    assert submissions(submit(inst, [order, order, mail("ANN@example.com", occurrence="order 7")])) == [
        Q,
        D,
        D,
    ]
    [again] = submit(inst, order)
    assert (again.submission, again.loose_mail_id) == (D, None)
    other_words = mail(occurrence="order 7", attributes={"name": "Ann", "number": 2})
    assert submissions(submit(inst, [mail(occurrence="order 8"), other_words])) == [Q, Q]
    change(site, subject="Other words, {{ name }}")
    assert submissions(submit(inst, order)) == [Q]
    assert len(stored(inst)) == 4


@pytest.mark.rule("1.5")
@pytest.mark.parametrize("transactional", [False, True])
def test_who_must_not_be_written_to_is_told(inst: Installation, site: Path, transactional: bool) -> None:
    change(site, topic="news", transactional=transactional)
    reasons = ["opted_out", "hard_bounce", "complaint", "manual"]
    with inst.database.begin() as connection:
        for reason in reasons:
            suppress_address(connection, inst.installation_id, f"{reason}@example.com", reason, now=now())
        for topic in ("news", "offers"):
            suppress_address(
                connection,
                inst.installation_id,
                f"{topic}@example.com",
                "opted_out_of_topic",
                topic=topic,
                now=now(),
            )
    answers = submit(inst, [mail(f"{name}@example.com") for name in (*reasons, "news", "offers")])
    taken = {row.address.partition("@")[0] for row in stored(inst)}
    assert taken == ({"opted_out", "news", "offers"} if transactional else {"offers"})
    assert {answer.reason for answer in answers if answer.submission is Submission.SUPPRESSED} == {
        "hard_bounce",
        "complaint",
        "manual",
        *(() if transactional else ("opted_out", "opted_out_of_topic")),
    }


@pytest.mark.rule("7.1")
def test_a_contact_is_named_by_its_number(inst: Installation) -> None:
    fill_audience(inst, "everybody", now=now())
    with inst.database.begin() as connection:
        number = connection.execute(
            text("SELECT contact_id FROM contact WHERE address_key = 'r2@example.net'")
        ).scalar_one()
    submit(inst, mail(number))
    assert [(row.contact_id, row.address) for row in stored(inst)] == [(number, "r2@example.net")]


@pytest.mark.rule("7.1")
def test_ten_thousand_at_once(inst: Installation) -> None:
    mails = [mail(f"r{n}@example.com" if n % 100 else "bad", occurrence=str(n)) for n in range(10_000)]
    answers = submit(inst, iter(mails))
    assert Counter(submissions(answers)) == {Q: 9_900, Submission.REFUSED: 100}
    rows = {row.loose_mail_id: row for row in stored(inst)}
    assert all(
        rows[answer.loose_mail_id].address == mails[answer.index].to
        for answer in answers
        if answer.loose_mail_id is not None
    )
    assert len(rows) == 9_900
    assert Counter(submissions(submit(inst, mails))) == {
        Submission.DUPLICATE: 9_900,
        Submission.REFUSED: 100,
    }
    with pytest.raises(BadInput, match="make a release of them"):
        submit(inst, (mails[0] for _ in range(MOST_AT_ONCE + 1)))


@pytest.mark.rule("7.1")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"to": "ann@example.com"}, "mails: must be a SingleMail or several of them, not dict"),
        (7, "mails: must be a SingleMail or several of them, not int"),
        ("ann@example.com", "mails: must be a SingleMail or several of them, not str"),
        ([mail(), {"to": "ben@example.com"}], "mails[1]: must be a SingleMail, not dict"),
        ([mail(), mail(), None], "mails[2]: must be a SingleMail, not NoneType"),
    ],
)
def test_what_is_no_single_mail_is_refused_with_its_place_and_nothing_is_taken(
    inst: Installation, given: Any, said: str
) -> None:
    with pytest.raises(BadInput) as raised:
        submit(inst, given)
    assert str(raised.value) == said
    assert stored(inst) == []

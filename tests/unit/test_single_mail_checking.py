"""What is wrong with a single mail is told before anything is stored, and no address is quoted."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_orchestration.kernel.attempts import DeliveryResult, Outcome, Phase
from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.failure_codes import FailureCode, code_of
from mail_orchestration.single_mailer.checking import checked
from mail_orchestration.single_mailer.mails import SingleMail

NOW = datetime(2027, 3, 1, 12, 0, tzinfo=UTC)


def mail(**parts: Any) -> SingleMail:
    return SingleMail(**{"campaign": "order", "to": "ann@example.com", **parts})


@pytest.mark.rule("7.1")
def test_a_good_mail_is_normalised() -> None:
    found = checked(mail(to=" Ann@EXAMPLE.com ", attributes={"b": [1, None], "a": "é"}), NOW)
    assert (found.address, found.contact_id) == ("Ann@example.com", None)
    assert found.attributes == '{"a": "é", "b": [1, null]}'
    assert (found.due_at, found.priority, found.occurrence) == (NOW, None, "")
    assert checked(mail(to=7), NOW).contact_id == 7


@pytest.mark.rule("7.1")
@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"to": "ann"}, "to: "),
        ({"to": ""}, "to: "),
        ({"to": "ann@example.com, ben@example.com"}, "to: "),
        ({"to": "ann@example.com\r\nBcc: ben@example.com"}, "to: "),
        ({"to": 0}, "to: must be an address, or the number of a contact"),
        ({"to": True}, "to: must be an address"),
        ({"to": None}, "to: must be an address"),
        ({"attributes": ["a"]}, "attributes: must be an object of names and values, not list"),
        ({"attributes": {1: "a"}}, "attributes: a name must be text, not int"),
        ({"attributes": {"at": NOW}}, "attributes: cannot be written as JSON: Object of type datetime"),
        ({"attributes": {"n": math.nan}}, "attributes: cannot be written as JSON: Out of range"),
        ({"attributes": {"n": "\ud800"}}, "attributes: cannot be written as JSON: half a surrogate pair"),
        ({"attributes": {"n": "x" * 300_000}}, "attributes: 300009 octets as JSON, more than 256000"),
        ({"at": datetime(2027, 3, 1, 12, 0)}, "at: must be a moment with its offset"),  # noqa: DTZ001
        ({"at": "tomorrow"}, "at: must be a moment with its offset"),
        ({"at": NOW - timedelta(days=1)}, "at: 2027-02-28T12:00:00+00:00 is more than 1 day ago"),
        ({"at": NOW.replace(year=2077)}, "at: 2077-03-01T12:00:00+00:00 is more than ten years ahead"),
        ({"occurrence": 5}, "occurrence: must be text"),
        ({"occurrence": "x" * 201}, "occurrence: 201 letters, more than 200"),
        ({"occurrence": "a\0b"}, "occurrence: holds a control character"),
        ({"priority": 1001}, "priority: must be a number from -1000 to 1000"),
        ({"priority": "high"}, "priority: must be a number"),
    ],
)
def test_what_is_wrong_is_named(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match="^" + re.escape(said)) as raised:
        checked(mail(**parts), NOW)
    assert "ann@" not in str(raised.value)


@pytest.mark.rule("7.1")
def test_a_time_that_has_just_passed_means_now() -> None:
    assert checked(mail(at=NOW - timedelta(hours=23)), NOW).due_at == NOW
    assert checked(mail(at=NOW + timedelta(hours=1)), NOW).due_at == NOW + timedelta(hours=1)


@pytest.mark.rule("7.1")
def test_attributes_that_contain_themselves_are_refused() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    with pytest.raises(BadInput, match="cannot be written as JSON"):
        checked(mail(attributes=endless), NOW)


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.lists(st.none())))
def test_whatever_the_attributes_are_they_are_taken_or_refused(attributes: dict[str, Any]) -> None:
    try:
        found = checked(mail(attributes=attributes), NOW)
    except BadInput:
        return
    turned = checked(mail(attributes=dict(reversed(attributes.items()))), NOW)
    assert found.attributes == turned.attributes


@pytest.mark.rule("7.3")
@pytest.mark.parametrize(
    ("enhanced", "refused_at", "code"),
    [
        ("5.7.1", Phase.MAIL, "sender_not_accepted"),
        ("5.1.8", Phase.RCPT, "sender_not_accepted"),
        ("5.1.1", Phase.RCPT, "recipient_not_accepted"),
        (None, Phase.RCPT, "recipient_not_accepted"),
        ("5.1.3", Phase.RCPT, "bad_email_address"),
        ("5.6.7", None, "bad_email_address"),
        (None, Phase.DATA, "data_not_accepted"),
        ("5.7.1", Phase.FINAL_DOT, "data_not_accepted"),
        ("5.6.0", None, "data_not_accepted"),
        ("4.4.2", None, "io_exception"),
        (None, None, "io_exception"),
    ],
)
def test_the_refused_command_gives_the_code(
    enhanced: str | None, refused_at: Phase | None, code: str
) -> None:
    result = DeliveryResult(1, 1, Outcome.REJECTED, None, enhanced, "no", "relay", NOW, refused_at=refused_at)
    assert code_of(result) == code


@pytest.mark.rule("7.3")
def test_the_codes_are_those_of_the_rule() -> None:
    assert [code.label for code in FailureCode] == [
        "Bad Email Address",
        "Sender Not Accepted",
        "Recipient Not Accepted",
        "Data Not Accepted",
        "Persistence Exception",
        "Failed to Load Campaign or Document",
        "Rendering Exception",
        "Custom Function Failed",
        "IO Exception",
        "Template Format Exception",
    ]

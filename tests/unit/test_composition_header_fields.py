"""Header fields: what Python's own parser reads is what was meant, and no value leaves its field."""

from __future__ import annotations

import email
import email.header
import email.policy
import email.utils
import re
from email.message import EmailMessage

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mail_orchestration.composition.errors import CompositionError, FaultReason
from mail_orchestration.composition.header_fields import (
    Mailbox,
    encoded_words,
    list_id_field,
    mailbox_field,
    parameter_field,
    parse_mailbox,
    unstructured,
    url_list_field,
)

CONTROLS = "\r\n\x00\x01\t\x0b\x1f\x7f\x85\x9f\u2028\u2029\ud800"
VALUES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=200)


def parsed(field: bytes) -> EmailMessage:
    return email.message_from_bytes(field + b"\r\n", policy=email.policy.default)  # type: ignore[return-value]


def assert_well_formed(field: bytes) -> None:
    assert field.endswith(b"\r\n")
    lines = field[:-2].split(b"\r\n")
    assert all(line and b"\r" not in line and b"\n" not in line for line in lines)
    assert all(line.startswith(b" ") and line.strip() for line in lines[1:])
    assert all(len(line) <= 998 for line in lines)
    assert all(len(line) <= 76 for line in lines if b"=?utf-8?" in line)
    assert all(len(word) <= 75 for word in re.findall(rb"=\?utf-8\?[qb]\?[^?]*\?=", field))


@pytest.mark.rule("2.4")
@settings(deadline=None)
@given(VALUES)
@example("x" * 300)
@example("a  b")
@example("=?utf-8?q?forged?=")
@example("Grüße " * 30)
@example("🌷" * 60)
@example("word " * 60)
def test_a_subject_comes_back(value: str) -> None:
    field = unstructured("Subject", value)
    assert_well_formed(field)
    assert str(parsed(field)["Subject"]) == value.strip()


@pytest.mark.rule("2.4")
@settings(deadline=None)
@given(VALUES)
@example('Doe, "Joe" \\ Jr. <x@y>')
@example("Zoë; Müller: @ (comment)")
@example("花見" * 40)
@example("A" * 200)
def test_a_display_name_comes_back(name: str) -> None:
    field = mailbox_field("To", Mailbox(name, "a.b+c@example.org"))
    assert_well_formed(field)
    # Not by policy.default: until Python 3.13 it leaves spaces between the encoded words of a phrase (gh-92081).
    value = email.message_from_bytes(field + b"\r\n")["To"].replace("\r\n", "")
    display, address = email.utils.parseaddr(value)
    assert address == "a.b+c@example.org"
    assert str(email.header.make_header(email.header.decode_header(display))) == " ".join(name.split())


@pytest.mark.rule("2.4")
@settings(deadline=None)
@given(VALUES.filter(lambda each: each.strip() != ""))
@example("Frühlingsprogramm – Gärtnerei Löwenzahn.csv")
@example('quo"te\\d.pdf')
@example("長い" * 60 + ".pdf")
def test_a_file_name_comes_back(name: str) -> None:
    field = parameter_field("Content-Disposition", "attachment", [("filename", name)])
    assert_well_formed(field)
    assert all(len(line) <= 78 for line in field.split(b"\r\n"))
    message = email.message_from_bytes(field + b"\r\n", policy=email.policy.compat32)
    assert message.get_filename("").strip() == name.strip()


@pytest.mark.rule("2.4")
@settings(deadline=None)
@given(st.text(max_size=30), st.sampled_from(CONTROLS), st.text(max_size=30))
def test_no_control_character_enters_a_field(before: str, control: str, after: str) -> None:
    value = f"x{before}{control}{after}x"
    for write in (
        lambda: unstructured("Subject", value),
        lambda: mailbox_field("To", Mailbox(value, "a@b.example")),
        lambda: mailbox_field("To", Mailbox("", f"{value}@b.example")),
        lambda: mailbox_field("To", Mailbox("", f"a@{value}")),
        lambda: list_id_field(value, "list.example.org"),
        lambda: parameter_field("Content-Type", "text/csv", [("name", value)]),
        lambda: url_list_field("List-Unsubscribe", [f"https://example.org/{value}"]),
    ):
        with pytest.raises(CompositionError) as caught:
            write()
        assert caught.value.reason is FaultReason.BAD_HEADER_FIELD
        assert re.match(r"[A-Za-z-]+: ", caught.value.detail)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=100), st.integers(0, 60))
def test_encoded_words_split_no_character(text: str, column: int) -> None:
    text = text.encode("utf-8", "ignore").decode() or "x"
    decoded = ""
    for word in encoded_words(text, column):
        assert len(word) <= 75
        ((octets, charset),) = email.header.decode_header(word)
        decoded += octets.decode(charset)
    assert decoded == text


@pytest.mark.rule("2.4")
def test_list_unsubscribe_is_neither_encoded_nor_folded_inside_a_url() -> None:
    long = "https://example.org/u/" + "a" * 500
    field = url_list_field("List-Unsubscribe", [long, "mailto:u@example.org?subject=x"])
    assert field == f"List-Unsubscribe: <{long}>,\r\n <mailto:u@example.org?subject=x>\r\n".encode()


def test_a_non_ascii_local_part_stays_utf8_and_an_odd_one_is_quoted() -> None:
    assert mailbox_field("To", Mailbox("", "zoë@example.org")) == "To: zoë@example.org\r\n".encode()
    assert mailbox_field("To", Mailbox("", "a b@example.org")) == b'To: "a b"@example.org\r\n'


@pytest.mark.rule("2.4")
def test_a_local_part_cannot_bring_a_second_address() -> None:
    for address in ('"a" <x@y.example>, "b"@example.org', "a@x.example>, <b@example.org"):
        field = mailbox_field("To", Mailbox("", address))
        message = email.message_from_bytes(field + b"\r\n", policy=email.policy.default)
        assert [each.domain for each in message["To"].addresses] == ["example.org"]


@pytest.mark.parametrize(
    ("text", "mailbox"),
    [
        ("a@b.example", Mailbox("", "a@b.example")),
        ("Zoë Müller <zoe@b.example>", Mailbox("Zoë Müller", "zoe@b.example")),
        ('"Doe, \\"J\\"" <j@b.example>', Mailbox('Doe, "J"', "j@b.example")),
    ],
)
def test_mailboxes_are_read(text: str, mailbox: Mailbox) -> None:
    assert parse_mailbox(text) == mailbox


@pytest.mark.parametrize(
    "text", ["", "x", "a@", "@b", "a@b c", "a@b@c <", "A <a@b>, B <c@d>", "a\n@b.c", "a@bü.de"]
)
def test_what_is_no_mailbox_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_mailbox(text)

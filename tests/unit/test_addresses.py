from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mail_orchestration.kernel.addresses import (
    address_key,
    normalise_address,
    normalise_by_library,
    parse_mailbox,
)
from mail_orchestration.kernel.errors import BadAddress

_LOCAL = st.text("abcXYZ019.!#$%&'*+/=?^_`{|}~-\"\\ <>@,;:()[]äßé\u0301\0\t", max_size=70)
_LABEL = st.one_of(
    st.text("abcXYZ019-_", max_size=66),
    st.sampled_from(
        ["xn--bcher-kva", "xn--", "ab--cd", "bücher", "BÜCHER", "faß", "例え", "аррӏе", "localhost", "com"]
    ),
)
_TOP = st.sampled_from(
    [
        "com",
        "COM",
        "test",
        "local",
        "LOCAL",
        "localhost",
        "invalid",
        "onion",
        "arpa",
        "c0",
        "0c",
        "a-",
        "museum",
        "рф",
        "",
    ]
)
_DOMAIN = st.builds(lambda labels, top: ".".join([*labels, top]), st.lists(_LABEL, max_size=5), _TOP)
_ADDRESSES = st.builds(lambda local, domain: f"{local}@{domain}", _LOCAL, _DOMAIN)


def _answer(function: object, value: str) -> str | None:
    try:
        return function(value)  # type: ignore[operator,no-any-return]
    except BadAddress:
        return None


@pytest.mark.rule("1.1")
@given(st.one_of(_ADDRESSES, st.text(max_size=40), st.emails()))
@example("a@" + "b" * 63 + ".com")
@example("a@" + "b" * 64 + ".com")
@example("a" * 64 + "@b.com")
@example("a" * 65 + "@b.com")
@example("a@" + ".".join(["b" * 61] * 4) + ".com")
@example("a@\u212aelvin.com")
@example("\u017fharp@example.com")
@example("a@b.com\n")
@example("INFO@Example.COM")
@example("a@ab--c.com")
@example("a@b.xn--p1ai")
def test_the_short_cut_gives_the_librarys_answer(value: str) -> None:
    assert _answer(normalise_address, value) == _answer(normalise_by_library, value)


@pytest.mark.rule("1.1")
@given(_ADDRESSES)
def test_a_normal_form_is_its_own_normal_form_and_safe_on_the_wire(value: str) -> None:
    address = _answer(normalise_address, value)
    if address is None:
        return
    local, _, domain = address.rpartition("@")
    assert normalise_address(address) == address
    assert domain.isascii()
    assert domain == domain.lower()
    assert unicodedata.is_normalized("NFC", local)
    assert not set(address) & set(" <>\r\n\t\0")
    assert len(address.encode()) <= 254
    assert address_key(address) == address_key(address_key(address))


@pytest.mark.rule("1.1")
@pytest.mark.parametrize(
    ("given_", "normal"),
    [
        (" Joe.Bloggs@EXAMPLE.com\t", "Joe.Bloggs@example.com"),
        ("info@example.com", "info@example.com"),
        ("INFO@example.com", "INFO@example.com"),
        ("jörg@bücher.example", "jörg@xn--bcher-kva.example"),
        ("jo\u0308rg@example.com", "jörg@example.com"),
        ("a@BÜCHER.example", "a@xn--bcher-kva.example"),
        ("a@bücher。example", "a@xn--bcher-kva.example"),
        ("o'neil+news=1@example.co.uk", "o'neil+news=1@example.co.uk"),
        ('"plain"@example.com', "plain@example.com"),
        ('"a@b"@example.com', '"a@b"@example.com'),
        ("accept@relay.test", "accept@relay.test"),
        ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("用户@例え.jp", "用户@xn--r8jz45g.jp"),
    ],
)
def test_normal_forms(given_: str, normal: str) -> None:
    assert normalise_address(given_) == normal


@pytest.mark.rule("1.1")
@pytest.mark.parametrize(
    "value",
    [
        "", " ", "@", "joe", "joe@", "@example.com", "joe@@example.com", "joe@example", "joe@example..com",
        ".joe@example.com", "joe.@example.com", "jo..e@example.com", "joe@-example.com", "joe@example-.com",
        "joe@exam_ple.com", "joe bloggs@example.com", "joe@example.com, ann@example.com", "joe@[192.0.2.1]",
        "joe@192.0.2.1", "joe@example.com\r\nBcc: ann@example.com", "joe\0@example.com", "Joe <joe@example.com>",
        "joe@example.com.", "joe@host.local", "joe@localhost", "joe＠example.com", "joe@ex\u200bample.c\u0000om",
        '"jo e"@example.com', '"<joe>"@example.com', "j\udcffoe@example.com", "joe\u202e@example.com",
        "a" * 65 + "@example.com", "joe@" + "a" * 64 + ".com", "joe@" + "abcdefgh." * 28 + "com", "x" * 10_000_000,
        "joe@xn--zzzzzzzzzzz.com",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_a_reason(value: str) -> None:
    with pytest.raises(BadAddress) as raised:
        normalise_address(value)
    assert 10 < len(str(raised.value)) < 400


@pytest.mark.rule("1.1")
def test_the_local_part_is_compared_without_case() -> None:
    assert address_key("Joe@example.com") == address_key("JOE@example.com")
    assert address_key("STRASSE@example.com") == address_key("straße@example.com")
    assert address_key("joe@example.com") != address_key("joe@example.org")


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("joe@example.com", "", "joe@example.com"),
        ("<joe@EXAMPLE.com>", "", "joe@example.com"),
        ("Joe Bloggs <joe@example.com>", "Joe Bloggs", "joe@example.com"),
        ('"Bloggs, \\"Joe\\"" <joe@example.com> ', 'Bloggs, "Joe"', "joe@example.com"),
        ("Jörg Müller<joerg@example.com>", "Jörg Müller", "joerg@example.com"),
    ],
)
def test_mailboxes(text: str, name: str, address: str) -> None:
    assert parse_mailbox(text) == (name, address)


@pytest.mark.parametrize("text", ["Joe", "Joe <>", "Joe <joe>", "Joe <a@b.com> x", "<a@b.com"])
def test_no_mailboxes(text: str) -> None:
    with pytest.raises(BadAddress):
        parse_mailbox(text)

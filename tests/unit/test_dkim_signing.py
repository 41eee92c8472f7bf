"""DKIM signatures of composed messages (spec 2.6), verified by dkimpy and against the vectors of RFC 8463."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from datetime import UTC, datetime

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mail_orchestration.cli.face import plain
from mail_orchestration.composition.assembly import AssemblyPool
from mail_orchestration.composition.composer import Composer
from mail_orchestration.composition.compression import Compressor
from mail_orchestration.composition.dkim import Signer, relaxed_field, simple_body_hash
from mail_orchestration.kernel.dkim_keys import Algorithm, DkimKey
from mail_orchestration.kernel.model import BodyFormat
from tests.dkim_world import signing_key, verdicts
from tests.unit.composition_campaigns import FACTS, KEYS, campaign, recipient

RFC_8463_MESSAGE = (
    b"From: Joe SixPack <joe@football.example.com>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
    b"\r\n"
    b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
)
RFC_8463_ED25519 = b"""DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
""".replace(b"\n", b"\r\n")
RFC_8463_RSA = b"""DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
""".replace(b"\n", b"\r\n")
RFC_8463_RECORDS = {
    b"brisbane": b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    b"test": b"v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3"
    b"idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lx"
    b"j+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB",
}
TEXT = "Hello {{ name }},\n\nthis is the news.\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[DkimKey]:
    """One of each kind, for the domain of the test campaigns."""
    folder = tmp_path_factory.mktemp("keys")
    return [signing_key(folder, "shop.example", f"s-{each}", each) for each in Algorithm]


@pytest.fixture(scope="module")
def letter(keys: list[DkimKey]) -> bytes:
    """A signed message with text and HTML."""
    made = Composer(
        campaign(text=TEXT, html="<p>Hello {{ name }}</p>", yaml="reply_to: us@shop.example\n"),
        FACTS,
        KEYS,
        dkim_keys=keys,
    )
    return made.compose(recipient(name="Zoë")).data


@pytest.mark.rule("2.6")
@pytest.mark.parametrize("field", [RFC_8463_ED25519, RFC_8463_RSA], ids=["ed25519", "rsa"])
def test_our_canonical_form_has_the_hash_that_rfc_8463_signed(field: bytes) -> None:
    names = [b"from", b"to", b"subject", b"date", b"message-id"]
    lines = RFC_8463_MESSAGE.partition(b"\r\n\r\n")[0].split(b"\r\n")
    own = relaxed_field(re.sub(rb" b=.*", b" b=", field, flags=re.DOTALL) + b"\r\n").removesuffix(b"\r\n")
    canonical = b"".join(relaxed_field(line + b"\r\n") for line in lines) + own
    assert [line.partition(b":")[0].lower() for line in lines] == names
    digest = hashlib.sha256(canonical).digest()
    signature = base64.b64decode(field.rpartition(b"b=")[2])
    if field is RFC_8463_ED25519:
        octets = base64.b64decode(RFC_8463_RECORDS[b"brisbane"].rpartition(b"p=")[2])
        Ed25519PublicKey.from_public_bytes(octets).verify(signature, digest)
    else:
        public = load_der_public_key(base64.b64decode(RFC_8463_RECORDS[b"test"].rpartition(b"p=")[2]))
        assert isinstance(public, RSAPublicKey)
        public.verify(signature, digest, PKCS1v15(), Prehashed(SHA256()))


@pytest.mark.rule("2.6")
def test_the_vectors_of_rfc_8463_verify_where_ours_are_verified() -> None:
    def answer(name: bytes, timeout: int = 5) -> bytes:
        return RFC_8463_RECORDS[name.partition(b".")[0]]

    message = RFC_8463_ED25519 + RFC_8463_RSA + RFC_8463_MESSAGE
    assert [dkim.DKIM(message).verify(index, dnsfunc=answer) for index in (0, 1)] == [True, True]
    altered = message.replace(b"dinner", b"supper")
    assert [dkim.DKIM(altered).verify(index, dnsfunc=answer) for index in (0, 1)] == [False, False]


@pytest.mark.rule("2.6")
def test_each_key_signs_and_the_signatures_are_verified(keys: list[DkimKey], letter: bytes) -> None:
    assert verdicts(letter, keys) == [True, True]
    tags = [dict(re.findall(rb"(\w+)=([^;]*)", each)) for each in signatures(letter)]
    assert [each[b"a"] for each in tags] == [b"rsa-sha256", b"ed25519-sha256"]
    assert {each[b"d"] for each in tags} == {b"shop.example"}
    assert {each[b"t"] for each in tags} == {str(int(FACTS.released_at.timestamp())).encode()}
    for each in tags:
        names = re.sub(rb"\s", b"", each[b"h"]).split(b":")
        assert names.count(b"list-unsubscribe") == names.count(b"list-unsubscribe-post") == 2
        assert {b"list-id", b"feedback-id"} <= set(names)
        assert not {b"message-id", b"received", b"return-path"} & set(names)
        assert b"l" not in each
        assert b"x" not in each


def signatures(message: bytes) -> list[bytes]:
    """Its `DKIM-Signature` fields."""
    return re.findall(rb"^DKIM-Signature:.*?\r\n(?![ \t])", message, re.DOTALL | re.MULTILINE)


def test_lines_of_a_signature_are_short(letter: bytes) -> None:
    for field in signatures(letter):
        assert max(len(line) for line in field.split(b"\r\n")) <= 78
        assert b" \r\n" not in field


@pytest.mark.rule("2.6")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"name", b"game"),
        (b"this is the news", b"this is not the news"),
        (b"\r\nTo: ", b"\r\nFrom: boss@evil.example\r\nTo: "),
        (b"\r\nTo: ", b"\r\nReply-To: boss@evil.example\r\nTo: "),
        (b"\r\nTo: ", b"\r\nCc: boss@evil.example\r\nTo: "),
        (b"\r\nTo: ", b"\r\nTo: boss@evil.example\r\nTo: "),
        (b"\r\nSubject: ", b"\r\nSubject: You won\r\nSubject: "),
        (b"\r\nSubject: Hello", b"\r\nSubject: Help"),
        (b"\r\nDate: Sun, 01", b"\r\nDate: Sun, 08"),
        (b"\r\nDate: ", b"\r\nDate: Sun, 01 Nov 2099 09:30:00 +0000\r\nDate: "),
        (b"\r\nMIME-Version: ", b'\r\nContent-Type: text/plain; x="\r\nMIME-Version: '),
        (b"\r\nMIME-Version: ", b"\r\nContent-Transfer-Encoding: base64\r\nMIME-Version: "),
        (b"boundary=", b"boundary=x; y="),
        (b"\r\nList-Unsubscribe: <https://mail.shop", b"\r\nList-Unsubscribe: <https://mail.evil"),
        (b"\r\nList-Unsubscribe: ", b"\r\nList-Unsubscribe: <https://evil.example>\r\nList-Unsubscribe: "),
        (b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click", b""),
        (b"\r\nFeedback-ID: 101", b"\r\nFeedback-ID: 102"),
        (b" t=", b" x=99999999999; t="),
    ],
)
def test_what_would_fool_a_reader_breaks_the_signatures(
    keys: list[DkimKey], letter: bytes, old: bytes, new: bytes
) -> None:
    altered = letter.replace(old, new)
    if old == b"name":  # the one alteration of a body that has no such word
        altered = letter.replace(b"=C3=AB", b"e")
    assert altered != letter
    assert verdicts(altered, keys) == [False, False]


@pytest.mark.rule("2.6")
@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"Received: from a by b; Sun, 01 Nov 2026 10:00:00 +0000\r\nReturn-Path: <>\r\n" + data,
        lambda data: b"X-Spam-Status: no\r\nAuthentication-Results: mx; spf=pass\r\n" + data,
        lambda data: re.sub(rb"Message-ID: <[^>]*>", b"Message-ID: <another@relay.example>", data),
        lambda data: data.replace(b"\r\nSubject: Hello", b"\r\nsubject:\r\n\t Hello  "),
        lambda data: data.replace(b"\r\nTo: ", b"\r\nTO:\t "),
        lambda data: data + b"\r\n\r\n",
    ],
    ids=["trace", "notes", "message-id", "folded anew", "spaces", "blank lines"],
)
def test_what_relays_do_leaves_the_signatures_whole(
    keys: list[DkimKey], letter: bytes, change: object
) -> None:
    altered = change(letter)  # type: ignore[operator]
    assert altered != letter
    assert verdicts(altered, keys) == [True, True]


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=60)
LINES = st.one_of(
    st.sampled_from(
        ["", ".", "..", ". dot", " ", "\t", "two  spaces ", "tab\tbetween\t", "From here", "-- ", "=_x"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=90),
    WORDS,
    st.integers(900, 1100).map(lambda n: "y" * n),
)
BODIES = st.tuples(st.lists(LINES, max_size=8), st.integers(0, 4)).map(
    lambda it: "\n".join(it[0]) + "\n" * it[1]
)


@pytest.mark.rule("2.6")
@settings(max_examples=120, deadline=None)
@given(body=BODIES, subject=WORDS, name=WORDS, related=st.booleans(), with_html=st.booleans())
@example(body=". \n\n\n", subject=" ", name="", related=False, with_html=False)
@example(body="tab\tbetween\t\nand at the end\t", subject="x", name="y", related=False, with_html=True)
@example(body="x", subject="ü" * 200, name='"quoted, \\ name"', related=True, with_html=True)
def test_every_message_is_verified_and_can_be_stripped_at_line_ends(
    keys: list[DkimKey], body: str, subject: str, name: str, related: bool, with_html: bool
) -> None:
    made = Composer(
        campaign(
            text="{{ body }}|",
            html="<p>{{ body }}</p>" if with_html else None,
            basics='name: news\nsubject: "{{ subject }}"\nto_name: "{{ name }}"\n'
            'from: "Jörg, the \\\\ second <joerg@mail.shop.example>"\naudiences: [customers]\n',
            yaml='headers: {X-Note: "{{ name }}"}\n',
        ),
        FACTS,
        KEYS,
        dkim_keys=keys,
    )
    someone = recipient(
        body_format=BodyFormat.MHTML if related else None, body=body, subject=subject, name=name
    )
    data = made.compose(someone).data
    assert verdicts(data, keys) == [True, True]
    head, _, content = data.partition(b"\r\n\r\n")
    assert verdicts(head + b"\r\n\r\n" + re.sub(rb"[ \t]+\r\n", b"\r\n", content), keys) == [True, True]
    assert verdicts(data.replace(b"|", b"!"), keys) == [False, False] or b"|" not in content


@pytest.mark.parametrize(
    "body", [b"", b"\r\n", b"\r\n\r\n", b"x", b"x\r\n", b"x\r\n\r\n\r\n", b" \r\n", b"x \r\n.\r\n"]
)
@pytest.mark.rule("2.6")
def test_bodies_end_in_one_line_end(body: bytes, keys: list[DkimKey]) -> None:
    message = b"From: a@shop.example\r\nSubject: x\r\nSubject: y\r\n\r\n" + body
    signed = Signer(keys).signature_fields(message, datetime(2026, 1, 1, tzinfo=UTC)) + message
    assert verdicts(signed, keys) == [True, True]
    if body.strip():
        assert simple_body_hash(body) == simple_body_hash(body.rstrip(b"\r\n"))
    else:
        assert (simple_body_hash(body) == hashlib.sha256(b"\r\n").digest()) is (b" " not in body)


@pytest.mark.rule("2.6")
def test_assembly_signs_and_every_process_signs_alike(keys: list[DkimKey]) -> None:
    made = campaign(text=TEXT, html="<p>{{ name }}</p>")
    people = [recipient(number, name=f"N{number}") for number in range(1, 5)]
    composed = Composer(made, FACTS, KEYS, dkim_keys=keys)
    with AssemblyPool(made, FACTS, KEYS, workers=2, dkim_keys=keys) as pool:
        compressor = Compressor(pool.dictionary)
        stored = [
            compressor.read(block)[0]
            for batch in pool.assemble([[each] for each in people])
            for block in batch.blocks
        ]
    assert stored == [composed.compose(each).data for each in people]
    assert all(verdicts(data, keys) == [True, True] for data in stored)


def test_a_message_that_is_composed_by_itself_has_its_own_moment(keys: list[DkimKey]) -> None:
    moment = datetime(2026, 11, 20, 12, tzinfo=UTC)
    composed = Composer(campaign(text=TEXT), FACTS, KEYS, dkim_keys=keys)
    data = composed.compose(recipient(name="Zoë"), dated=moment).data
    assert re.findall(rb" t=(\d+);", data) == [str(int(moment.timestamp())).encode()] * 2
    assert verdicts(data, keys) == [True, True]


def test_without_a_key_nothing_is_signed() -> None:
    data = Composer(campaign(text=TEXT), FACTS, KEYS).compose(recipient(name="Zoë")).data
    assert data.startswith(b"From: ")


def test_the_keys_are_shown_nowhere(keys: list[DkimKey]) -> None:
    for key in keys:
        secret = key.private.reveal()
        for shown in (repr(key), str(dataclasses.asdict(key)), json.dumps(key, default=plain)):
            assert repr(secret)[2:40] not in shown
            assert base64.b64encode(secret).decode()[:40] not in shown

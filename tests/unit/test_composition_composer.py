"""One recipient in, one message out, as Python's own parser reads it."""

from __future__ import annotations

import base64
import email
import email.policy
import json
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

import pytest
from composition_campaigns import EXAMPLE, FACTS, KEYS, campaign, composer, recipient
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_orchestration.composition.composer import Composer
from mail_orchestration.composition.cookies import verify_cookie, verify_unsubscribe_token
from mail_orchestration.composition.definition import load_campaign
from mail_orchestration.composition.errors import CompositionError, FaultReason
from mail_orchestration.kernel.errors import BadCampaign
from mail_orchestration.kernel.model import BodyFormat
from mail_orchestration.kernel.pages import Page

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3
SUBJECT_FROM_DATA = """
name: news
subject: "About {{ subject }}"
from: "Jörg <joerg@shop.example>"
audiences: [customers]
"""
FROM_DATA = composer(
    html="<p>{{ body }}</p>!", text="{{ body }}!", yaml="to_name: '{{ name }}'\n", basics=SUBJECT_FROM_DATA
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def parsed(data: bytes) -> EmailMessage:
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert [part.defects for part in message.walk()] == [[] for _ in message.walk()]
    return message  # type: ignore[return-value]


def assert_conforms(data: bytes) -> None:
    assert data.endswith(b"\r\n")
    assert data.count(b"\r") == data.count(b"\n") == data.count(b"\r\n")
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert b"\x00" not in data


def structure(message: Any) -> Any:
    if not message.is_multipart():
        return message.get_content_type()
    return [message.get_content_subtype(), *map(structure, message.iter_parts())]


def faults(fault: FaultReason) -> Any:
    return pytest.raises(CompositionError, match=f"^{fault}: ")


@pytest.mark.rule("2.4")
@settings(deadline=None)
@given(body=TEXTS, subject=TEXTS, name=TEXTS)
def test_body_subject_and_name_come_back(body: str, subject: str, name: str) -> None:
    someone = recipient(body=body, subject=subject, name=name)
    try:
        message = FROM_DATA.compose(someone)
    except CompositionError as fault:
        assert fault.reason is FaultReason.BAD_HEADER_FIELD  # noqa: PT017 - else it must parse
        return
    assert_conforms(message.data)
    read = parsed(message.data)
    assert str(read["Subject"]) == f"About {subject}".strip()
    plain, html = read.iter_parts()
    as_read = plain.get_payload(decode=True).decode().replace("\r\n", "\n").removesuffix("\n")
    assert as_read == (body + "!").replace("\r\n", "\n").replace("\r", "\n")
    assert html.get_content_type() == "text/html"


@pytest.mark.rule("2.4")
def test_header_fields_of_a_message() -> None:
    made = composer(
        text="Hi {{ contact.first }}", yaml="reply_to: a@shop.example\nlist_id: news.shop.example\n"
    )
    read = parsed(made.compose(recipient(7, first="Zoë")).data)
    assert read["From"] == "Jörg <joerg@shop.example>"
    assert read["To"] == "user7@example.org"
    assert read["Reply-To"] == "a@shop.example"
    assert read["Date"].datetime == FACTS.released_at
    assert read["List-Id"] == "<news.shop.example>"
    assert read["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert read["Feedback-ID"] == "101:news:main:demo"
    assert read["MIME-Version"] == "1.0"
    web, mail = (each.strip("<>") for each in read["List-Unsubscribe"].split(", "))
    claims = verify_unsubscribe_token(web.removeprefix("https://mail.shop.example/u/"), KEYS)
    assert (claims.mail_job_id, claims.contact_id, claims.recipient_no) == (101, 1007, 7)
    assert mail == f"mailto:unsubscribe@shop.example?subject={web.rpartition('/')[2]}"
    assert len({name.lower() for name, _ in read.items()}) == len(read.items())


@pytest.mark.rule("2.4")
def test_message_id_depends_on_mail_job_and_recipient_only() -> None:
    made = composer(text="{{ x }}")
    first = made.compose(recipient(1, x="a")).message_id
    assert made.compose(recipient(1, x="b")).message_id == first
    assert made.compose(recipient(2, x="a")).message_id != first
    other = Composer(campaign(text="{{ x }}"), replace(FACTS, mail_job_id=102), KEYS)
    assert other.compose(recipient(1, x="a")).message_id != first
    assert first.endswith("@shop.example")


@pytest.mark.rule("7.1")
def test_a_message_that_belongs_to_no_mail_job_has_its_own_moment_and_id() -> None:
    made = composer(text="{{ released_at.year }}")
    now = FACTS.released_at.replace(year=2027)
    once = made.compose(recipient(1), dated=now)
    assert made.compose(recipient(1), dated=now) == once
    read = parsed(once.data)
    assert read["Date"].datetime == now
    assert len(read.get_all("Date")) == 1
    assert read.get_content().strip() == "2027"
    later = made.compose(recipient(1), dated=now.replace(second=1))
    assert len({once.message_id, later.message_id, made.compose(recipient(1)).message_id}) == 3


@pytest.mark.rule("2.4")
def test_the_same_recipient_gets_the_same_octets_from_every_host() -> None:
    example = load_campaign(EXAMPLE)
    someone = recipient(first_name="Søren", last_name="Łukasiewicz", city="Kraków", points=120)
    assert Composer(example, FACTS, KEYS).compose(someone) == Composer(example, FACTS, KEYS).compose(someone)


FILES = "attachments: [{path: a.csv, name: Über.csv}]\n"
IMAGE = "inline: {logo: logo.png}\n"


@pytest.mark.rule("2.5")
@pytest.mark.parametrize(
    ("body_format", "yaml", "expected"),
    [
        (BodyFormat.TEXT, "", "text/plain"),
        (BodyFormat.TEXT, FILES + IMAGE, ["mixed", "text/plain", "text/csv"]),
        (BodyFormat.MIME, "", ["alternative", "text/plain", "text/html"]),
        (BodyFormat.MIME, FILES, ["mixed", ["alternative", "text/plain", "text/html"], "text/csv"]),
        (BodyFormat.MIME, IMAGE, ["alternative", "text/plain", ["related", "text/html", "image/png"]]),
        (BodyFormat.MHTML, "", ["alternative", "text/plain", ["related", "text/html"]]),
        (
            BodyFormat.MHTML,
            FILES + IMAGE,
            ["mixed", ["alternative", "text/plain", ["related", "text/html", "image/png"]], "text/csv"],
        ),
    ],
)
def test_body_formats(body_format: BodyFormat, yaml: str, expected: Any) -> None:
    made = composer(html="<b>ä</b><img src='cid:logo'>", text="ä", yaml=yaml, a__csv=b"1,2\n", logo__png=PNG)
    message = made.compose(recipient(body_format=body_format))
    assert_conforms(message.data)
    read = parsed(message.data)
    assert structure(read) == expected
    for part in read.walk():
        if part.get_content_type() == "image/png":
            assert part["Content-ID"] == "<logo>"
            assert part.get_payload(decode=True) == PNG
        if part.get_content_type() == "text/csv":
            assert part.get_filename() == "Über.csv"
            assert part.get_payload(decode=True) == b"1,2\n"


@pytest.mark.rule("2.2")
def test_a_text_part_is_derived_from_the_html() -> None:
    made = composer(html="<h1>Hi {{ n }}</h1><a href='https://x.example/{{ n }}'>go</a>")
    for name in ("Zoë", "<b>", "a  &  b"):
        text = made.compose(recipient(n=name)).text
        assert text is not None
        shown = " ".join(name.split())
        assert text == f"Hi {shown}\n\n[go](https://x.example/{shown})\n"


@pytest.mark.rule("2.8")
@pytest.mark.parametrize(
    "html",
    [
        "",
        " \n",
        "<p></p>",
        "<html><head><title>x</title></head><body> &nbsp; <!-- x --></body></html>",
        "<br>",
    ],
)
def test_an_empty_body_is_bypassed(html: str) -> None:
    with faults(FaultReason.EMPTY_BODY):
        composer(html=html).compose(recipient())
    attached = composer(html=html, yaml=FILES, a__csv=b"1").compose(recipient())
    assert structure(parsed(attached.data))[0] == "mixed"


@pytest.mark.rule("2.8")
@pytest.mark.parametrize("html", ["x", "<p>x</p>", "<img src='https://x.example/a.png'>", "<p>&euro;</p>"])
def test_a_body_with_anything_in_it_is_sent(html: str) -> None:
    assert composer(html=html).compose(recipient()).html == html


@pytest.mark.rule("1.4")
@pytest.mark.parametrize("attributes", [{}, {"city": None}, {"city": ""}])
def test_a_missing_attribute_is_bypassed(attributes: dict[str, Any]) -> None:
    with faults(FaultReason.MISSING_ATTRIBUTE) as caught:
        composer(text="x", yaml="required_attributes: [city]\n").compose(recipient(**attributes))
    assert caught.value.detail == "the attribute city is absent or empty"


@pytest.mark.rule("2.4")
@pytest.mark.parametrize("key", ["subject", "to_name", "headers: {X-A"])
@pytest.mark.parametrize("evil", ["a\r\nBcc: x@y.example", "a\nb", "a\rb", "a\x00b", "a\u2028b"])
def test_header_injection_is_bypassed(key: str, evil: str) -> None:
    basics = "name: n\nfrom: a@b.example\naudiences: [x]\n"
    end = "}" if "{" in key else ""
    basics += f'{key}: "{{{{ v }}}}"{end}\n' + ("" if key == "subject" else "subject: s\n")
    with faults(FaultReason.BAD_HEADER_FIELD):
        composer(text="x", basics=basics).compose(recipient(v=evil))
    with faults(FaultReason.BAD_HEADER_FIELD):
        composer(text="x").compose(replace(recipient(), address=f"{evil}@example.org"))


@pytest.mark.rule("2.7")
def test_a_message_over_the_limit_is_bypassed() -> None:
    with faults(FaultReason.MESSAGE_TOO_LARGE):
        composer(text="{{ x }}", yaml="maximum_message_kilobytes: 2\n").compose(recipient(x="long " * 500))


@pytest.mark.rule("2.3")
def test_a_page_is_asked_for_with_the_recipients_own_cookie() -> None:
    made = composer(yaml="content_url: 'https://pages.example/{{ campaign }}?c={{ city | urlencode }}'\n")
    request = made.page_request(recipient(3, city="São Paulo & co"))
    assert request is not None
    assert request.url == "https://pages.example/news?c=S%C3%A3o%20Paulo%20%26%20co"
    assert verify_cookie(request.cookie_value, KEYS) == FACTS.claims("news", recipient(3))
    key_id, payload, _mac = request.cookie_value.split(".")
    assert (key_id, json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))) == (
        "k1",
        ["demo", "main", "news", 101, 1003, 3],
    ), "as docs/how-to/personalise-by-page.md tells those who read it in another language"
    own = made.page_request(replace(recipient(3), url="https://own.example/3"))
    assert own is not None
    assert own.url == "https://own.example/3"
    message = made.compose(recipient(3), Page(url=request.url, html="<p>Für dich</p>"))
    assert (message.html, message.text) == ("<p>Für dich</p>", "\nFür dich\n".lstrip("\n"))
    with faults(FaultReason.PAGE_UNAVAILABLE):
        made.compose(recipient(3))
    assert composer(text="x").page_request(recipient()) is None


def test_envelope_sender() -> None:
    assert composer(text="x").compose(recipient()).reverse_path == "bounces@shop.example"
    own = composer(text="x", yaml="envelope_sender: b@bounce.example\n")
    assert own.compose(recipient()).reverse_path == "b@bounce.example"
    elsewhere = Composer(campaign(text="x"), replace(FACTS, bounce_domain="b.example"), KEYS)
    assert elsewhere.compose(recipient()).reverse_path == "bounces@b.example"


def test_a_syntax_error_names_file_and_line() -> None:
    with pytest.raises(BadCampaign, match=r"^message\.txt\.j2:2: "):
        composer(text="x\n{% if %}\n")


@pytest.mark.rule("2.1")
def test_the_example_composes() -> None:
    made = Composer(load_campaign(EXAMPLE), FACTS, KEYS)
    read = parsed(
        made.compose(recipient(first_name="Søren", last_name="Łuk", city="Kraków", points=120)).data
    )
    assert read["Subject"] == "Søren, der Frühling ist da – 4 Neuheiten aus der Gärtnerei 🌷"
    assert read["To"].addresses[0].display_name == "Søren Łuk"
    assert [part.get_filename() for part in read.iter_attachments()] == [
        "Frühlingsprogramm – Gärtnerei Löwenzahn.csv"
    ]
    assert "120 Punkte" in read.get_body(("html",)).get_content()
    assert "Punkte" not in made.compose(recipient(first_name="Bo", points=5)).data.decode()

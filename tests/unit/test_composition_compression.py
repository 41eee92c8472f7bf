"""Stored small, read back exactly."""

from __future__ import annotations

import base64
import random
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from composition_campaigns import EXAMPLE, FACTS, KEYS, campaign, recipient
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_orchestration.composition import dictionary
from mail_orchestration.composition.composer import Composer
from mail_orchestration.composition.compression import Compressor
from mail_orchestration.composition.definition import load_campaign
from mail_orchestration.composition.dictionary import BadDictionary
from mail_orchestration.composition.errors import BadStoredMessage
from mail_orchestration.composition.imagined import make_dictionary
from mail_orchestration.kernel.dkim_keys import Algorithm, load_dkim_key, new_private_key
from mail_orchestration.kernel.model import Recipient
from mail_orchestration.kernel.tokens import SigningKeys
from tests.dkim_world import section

NEWSLETTER = Path(__file__).parents[2] / "benchmarks" / "campaigns" / "newsletter"
BLOBS = [base64.encodebytes(random.Random(seed).randbytes(400)) for seed in range(3)]
SMALL = Compressor(dictionary.build(text=b"Subject: hello\r\n\r\nworld\r\n", blobs=BLOBS))


@pytest.mark.rule("2.7")
@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=200), st.sampled_from(BLOBS)), max_size=8))
def test_every_message_is_read_back_byte_for_byte(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    assert SMALL.read(SMALL.compress([data]))[0] == data


@pytest.mark.rule("2.7")
def test_an_attachment_costs_next_to_nothing() -> None:
    noise = random.Random(1).randbytes(1_000_000)
    made = campaign(
        html="<p>Hi {{ n }}</p>",
        yaml="attachments: [{path: a.bin}]\ninline: {i: b.png}\n",
        a__bin=noise,
        b__png=noise[:5000],
    )
    composer = Composer(made, FACTS, KEYS)
    compressor = Compressor(make_dictionary(composer))
    data = composer.compose(recipient(n="Zoë")).data
    stored = compressor.compress([data])
    assert len(data) > 1_300_000
    assert len(stored) < 400
    assert compressor.read(stored)[0] == data


@pytest.mark.rule("2.7")
def test_a_newsletter_is_stored_in_some_hundred_octets() -> None:
    composer = Composer(load_campaign(EXAMPLE), FACTS, KEYS)
    kept = make_dictionary(composer)
    assert kept == make_dictionary(Composer(load_campaign(EXAMPLE), FACTS, KEYS))
    compressor = Compressor(kept)
    sizes = []
    for number in range(1, 51):
        someone = recipient(
            number, first_name=f"Name{number}", city="Kraków" if number % 2 else None, points=number
        )
        data = composer.compose(someone).data
        stored = compressor.compress([data])
        assert Compressor(kept).read(stored)[0] == data
        sizes.append(len(stored))
    assert max(sizes) < 600


@pytest.mark.rule("2.7")
def test_a_template_that_counts_and_compares_is_stored_small_without_a_sample_contact() -> None:
    texts = [random.Random(number).randbytes(60).hex() for number in range(20)]
    made = campaign(
        html="{% if (points | int) > 5 and age < 100 %}{{ '%.2f' | format(points) }} points{% endif %}"
        "{% for each in products %}<p>{{ each }}</p>\n{% endfor %}",
        yaml=f"variables: {{products: [{', '.join(texts)}]}}\n",
    )
    composer = Composer(made, FACTS, KEYS)
    data = composer.compose(recipient(points=120, age=40)).data
    assert len(data) > 2_400, "the texts are in it"
    assert len(Compressor(make_dictionary(composer)).compress([data])) < 400


@pytest.mark.rule("2.7")
def test_a_dictionary_after_the_shape_of_recipients_is_better_and_says_nothing_of_them() -> None:
    def reader(number: int) -> Recipient:
        said = {"name": f"Zoë {number}", "number": str(number), "city": "Lyon", "points": str(number % 250)}
        return replace(recipient(number), address=f"zebulon{number}@many.example", attributes=said)

    composer = Composer(load_campaign(NEWSLETTER), FACTS, KEYS)
    alone = replace(reader(500_125), address="zebulon@alone.example")
    plain = make_dictionary(composer)
    shaped = make_dictionary(composer, models=[reader(500_123), alone, reader(500_124), alone])
    assert b"@many.example" in shaped
    assert b"alone.example" not in shaped, "drawn twice, it is still one contact's"
    assert b"zebulon" not in shaped
    assert b"500123" not in shaped
    assert b"500124" not in shaped
    assert not re.search(rb"Zo(=C3=AB|\xc3\xab)", shaped)
    messages = [composer.compose(reader(number)).data for number in range(100_000, 900_000, 20_011)]
    by_plain, by_shaped = (
        sum(len(Compressor(each).compress([message])) for message in messages) for each in (plain, shaped)
    )
    assert by_shaped < 0.8 * by_plain
    assert by_shaped < 235 * len(messages), "zstd's tables are in the dictionary, not in each message"
    compressor = Compressor(shaped)
    assert [compressor.read(compressor.compress([each]))[0] for each in messages] == messages
    together = compressor.compress(messages)
    assert len(together) < 160 * len(messages), "neighbours have more in common with each other"
    assert [compressor.read(together, place)[0] for place in range(len(messages))] == messages


@pytest.mark.rule("2.7")
def test_no_secret_is_in_a_dictionary(tmp_path: Path) -> None:
    def made(secret: bytes) -> bytes:
        (folder := tmp_path / secret[:1].hex()).mkdir()
        signing = [
            load_dkim_key(section(folder, "shop.example", each.value, new_private_key(each)))
            for each in Algorithm
        ]
        keys = SigningKeys({"k1": secret})
        return make_dictionary(Composer(load_campaign(EXAMPLE), FACTS, keys, dkim_keys=signing))

    one = made(b"1" * 32)
    assert one.count(b"DKIM-Signature:") > 2
    assert one == made(b"2" * 32)


@pytest.mark.rule("2.7")
def test_samples_are_not_held_with_their_attachments() -> None:
    noise = random.Random(1).randbytes(3_000_000)
    composer = Composer(
        campaign(html="<p>Hi {{ n }}</p>", yaml="attachments: [{path: a.bin}]\n", a__bin=noise), FACTS, KEYS
    )
    tracemalloc.start()
    try:
        make_dictionary(composer)
        assert tracemalloc.get_traced_memory()[1] < 12_000_000, (
            "once in the dictionary, and not in each sample"
        )
    finally:
        tracemalloc.stop()


@pytest.mark.rule("2.7")
def test_a_slow_template_is_imagined_as_often_as_there_is_time() -> None:
    slow = "{% for a in range(30) %}{% for b in range(20000) %}{% endfor %}{% endfor %}"
    said = "".join(f"{{{{ 'word{number}' | upper }}}} " for number in range(20))
    composer = Composer(campaign(html=f"<p>{slow}{said}</p>"), FACTS, KEYS)
    made = make_dictionary(composer, cpu_seconds=0)
    assert b"WORD19" not in made
    made = make_dictionary(composer, cpu_seconds=0.005)
    assert 0 < made.count(b"WORD19") <= 2, "in HTML and text of the one that was begun"


@pytest.mark.rule("2.7")
@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("Zoë Łuk 42!", "[a-z]{2}é é[a-z]{2} [0-9]{2}!"),
        ("हिन्दी", "é{6}"),
        ("กุ้ง ๔²", "é{4} [0-9]é"),
        ("Zoe\u0308", "[a-z]{3}é"),
        ("https://a.b/7", r"https://[a-z]\.[a-z]/[0-9]"),
        (307, "[1-9]{3}"),
        (1.25, r"[1-9]\.[1-9]{2}"),
        (True, "True"),
        (None, "None"),
        ("", ""),
    ],
)
def test_what_is_alike_is_as_long_and_says_nothing(value: object, shape: str) -> None:
    made = [dictionary.alike(value, random.Random(seed)) for seed in range(20)]
    assert {type(each) for each in made} == {type(value)}
    assert all(re.fullmatch(shape, str(each)) for each in made)


@pytest.mark.parametrize("stored", [b"", b"\x00", b"\x05abc", b"\x01" + b"\xff" * 8, b"\x00nonsense"])
def test_what_was_not_stored_is_refused(stored: bytes) -> None:
    with pytest.raises(BadStoredMessage):
        SMALL.read(stored)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"MOD2",
        b"MOD1\0\0\0\0",
        b"MOD2\0\0\0\x09abc",
        b"MOD2\0\0",
        b"MOD2\0\0\0\x10\x37\xa4\x30\xecno zstd's one",
    ],
)
def test_what_is_no_dictionary_is_refused(octets: bytes) -> None:
    with pytest.raises(BadDictionary):
        Compressor(octets)

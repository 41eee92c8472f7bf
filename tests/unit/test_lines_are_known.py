"""A message's lines are looked at when it is stored, and what was found holds for what is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_orchestration.composition import dictionary
from mail_orchestration.composition.composer import Composer
from mail_orchestration.composition.compression import Compressor
from mail_orchestration.composition.errors import BadStoredMessage
from mail_orchestration.kernel.dkim_keys import Algorithm, load_dkim_key, new_private_key
from mail_orchestration.kernel.message_lines import Lines, dot_stuffed, fault_of_lines, look_at_lines
from tests.dkim_world import section
from tests.unit.composition_campaigns import FACTS, KEYS, campaign, composer, recipient

FILE = b"".join(b"%076d\r\n" % number for number in range(20))
COMPRESSOR = Compressor(dictionary.build(text=b"Subject: hello\r\n\r\nworld\r\n", blobs=[FILE]))
PIECES = [b"x", b"\xc3\xa9", b".", b"\r", b"\n", b"\r\n", b"\r\n.", b"\0", b"y" * 500, b"Subject: hello\r\n"]


@settings(deadline=None)
@given(st.lists(st.sampled_from([*PIECES, FILE]), max_size=10))
def test_what_is_known_of_lines_is_true(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    read, lines = COMPRESSOR.read(COMPRESSOR.compress([data]))
    assert read == data
    if lines is not Lines.UNSEEN:
        assert fault_of_lines(data) is None
    assert lines is not Lines.PLAIN or (dot_stuffed(data) == data and data.isascii())


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\r\n\r\nb\r\n", Lines.PLAIN),
        (b"a\r\n\r\nb\r\n.\r\n", Lines.FIT),
        (b".a\r\n", Lines.FIT),
        (b"without an end", Lines.FIT),
        ("é\r\n".encode(), Lines.FIT),
        (b"a\r\n\r\nb\n", Lines.UNSEEN),
        (b"a\r\n\r\nb\r.\r\n", Lines.UNSEEN),
        (b"a\0\r\n", Lines.UNSEEN),
        (b"x" * 999 + b"\r\n", Lines.UNSEEN),
        (b"a\r\n" + FILE, Lines.UNSEEN),
    ],
)
def test_what_is_known_of_lines(data: bytes, lines: Lines) -> None:
    others = [b"a\r\n", b"no end", b"a\0", FILE]
    for place in range(len(others) + 1):
        stored = COMPRESSOR.compress([*others[:place], data, *others[place:]])
        assert COMPRESSOR.read(stored, place) == (data, lines)


def test_what_was_altered_since_is_not_read() -> None:
    looked_at = b"Subject: hello\r\n\r\nthe lines of this one were looked at\r\n"
    stored = COMPRESSOR.compress([looked_at, b"and of its neighbour"])
    assert COMPRESSOR.read(stored) == (looked_at, Lines.PLAIN)
    for position in range(len(stored)):
        altered = bytearray(stored)
        altered[position] ^= 1
        for place in (0, 1):
            with pytest.raises(BadStoredMessage):
                COMPRESSOR.read(bytes(altered), place)
    assert COMPRESSOR.read(stored, 1) == (b"and of its neighbour", Lines.FIT)


BODIES = ["{{ a }}x{{ b }}", "é{{ a }}\n.{{ b }}\n", "ascii {{ a }}{{ b }}", ".\n{{ a }}\n..{{ b }}"]
"""In quoted-printable no line begins with a dot; 7-bit text is left as it is."""
VALUES = [
    ".",
    "..x",
    "\n.",
    "\r",
    "\r\n.\r\n",
    "\0",
    "\u2028.",
    "é" * 25 + ".",
    "y" * 75 + ".b",
    "z" * 999,
    " \nx",
    "=\n.",
]


@pytest.mark.parametrize("body", BODIES)
def test_what_the_composer_says_of_its_lines_is_what_a_look_at_all_of_them_finds(
    tmp_path: Path, body: str
) -> None:
    key = load_dkim_key(section(tmp_path, "shop.example", "k", new_private_key(Algorithm.ED25519)))
    composers = [
        composer(html=body),
        composer(text=body),
        Composer(campaign(html=f"<p>{body}</p>", text=body), FACTS, KEYS, dkim_keys=[key]),
    ]
    found = set()
    for each in composers:
        for a in VALUES:
            for b in VALUES:
                message = each.compose(recipient(a=a, b=b))
                assert message.fit_from is not None
                known = look_at_lines(message.data, message.fit_from)
                assert known is look_at_lines(message.data) is not Lines.UNSEEN
                found.add(known)
    assert found == ({Lines.PLAIN} if "é" in body else {Lines.PLAIN, Lines.FIT})


def test_header_fields_of_a_message_are_looked_at() -> None:
    data = b"Subject: a\nX: b\r\n\r\nhello\r\n"
    assert look_at_lines(data, data.index(b"hello")) is Lines.UNSEEN
    assert look_at_lines(b".a: b\r\n\r\nhello\r\n", 9) is Lines.FIT


def test_nothing_is_known_beforehand_of_files_of_the_campaign() -> None:
    attached = composer(text="hello", yaml="attachments: [{ path: terms.csv }]", terms__csv=b"a,b\r.\n")
    assert attached.compose(recipient()).fit_from is None

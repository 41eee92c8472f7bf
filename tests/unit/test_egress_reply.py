"""Replies, however they are cut up on the way."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.egress.faults import MalformedReply
from mail_orchestration.egress.reply import MAX_REPLY_OCTETS, Reply, ReplyParser

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40)


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    code = draw(st.integers(200, 599))
    lines = draw(st.lists(TEXTS, min_size=1, max_size=4))
    end = draw(st.sampled_from(["\r\n", "\n"]))
    marked = [f"{code}-{text}" for text in lines[:-1]] + [f"{code} {lines[-1]}"]
    return "".join(line + end for line in marked).encode()


def parsed(*pieces: bytes) -> list[Reply]:
    parser, found = ReplyParser(), deque[Reply]()
    for piece in pieces:
        parser.feed(piece, found)
    return list(found)


@given(st.lists(replies(), max_size=6), st.lists(st.integers(0, 2000), max_size=20))
def test_any_split_of_the_octets_gives_the_same_replies(stream: list[bytes], cuts: list[int]) -> None:
    octets = b"".join(stream)
    edges = [0, *sorted(min(cut, len(octets)) for cut in cuts), len(octets)]
    pieces = [octets[start:end] for start, end in pairwise(edges)]
    whole = parsed(octets)
    assert parsed(*pieces) == whole
    assert len(whole) == len(stream)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_octets_give_replies_or_malformed_reply(octets: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(octets)) for cut in cuts), len(octets)]
    try:
        found = parsed(*(octets[start:end] for start, end in pairwise(edges)))
    except MalformedReply:
        return
    assert all(200 <= reply.code <= 599 for reply in found)


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250\r\n", Reply(250, None, "")),
        (b"250 \r\n", Reply(250, None, "")),
        (b"250 2.1.5 fine\r\n", Reply(250, "2.1.5", "fine")),
        (b"550 5.1.1\r\n", Reply(550, "5.1.1", "")),
        (b"550-5.1.1 no such\r\n550 5.1.1 mailbox\r\n", Reply(550, "5.1.1", "no such\nmailbox")),
        (b"550 4.1.1 contradicts its code\r\n", Reply(550, None, "4.1.1 contradicts its code")),
        (b"550 5.1.1000 is no code\r\n", Reply(550, None, "5.1.1000 is no code")),
        (b"421 gr\xfc\xdf\x07\r\n", Reply(421, None, "gr\ufffd\ufffd")),
    ],
)
def test_a_reply_is_code_enhanced_code_and_text(octets: bytes, reply: Reply) -> None:
    assert parsed(octets) == [reply]


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"25\r\n",
        b"150 early\r\n",
        b"600 late\r\n",
        b"250_x\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"250-a\r\n251 b\r\n",
        b"250-" + b"x" * MAX_REPLY_OCTETS,
        b"250-xxxxxxxx\r\n" * (MAX_REPLY_OCTETS // 14 + 1),
    ],
)
def test_what_is_no_reply_is_malformed(octets: bytes) -> None:
    with pytest.raises(MalformedReply):
        parsed(octets)


def test_the_replies_before_a_malformed_one_are_kept() -> None:
    parser, found = ReplyParser(), deque[Reply]()
    with pytest.raises(MalformedReply):
        parser.feed(b"250 fine\r\nnonsense\r\n", found)
    assert list(found) == [Reply(250, None, "fine")]


def test_the_classes_of_replies() -> None:
    assert Reply(250, None, "").is_positive
    assert Reply(354, None, "").is_intermediate
    assert Reply(451, None, "").is_transient
    assert Reply(550, None, "").is_permanent
    assert Reply(421, None, "").closes_the_session
    assert str(Reply(550, "5.1.1", "no\nsuch")) == "550 5.1.1 no such"

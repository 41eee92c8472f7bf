"""Neighbouring messages are stored in blocks of bounded size, and each is read back from its own (spec 2.7)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.composition import compression, dictionary
from mail_orchestration.composition.compression import Compressor, Packer
from mail_orchestration.composition.errors import BadStoredMessage

FILES = [random.Random(seed).randbytes(300).hex().encode() for seed in range(2)]
COMPRESSOR = Compressor(dictionary.build(text=b"Subject: hello\r\n\r\nworld\r\n", blobs=FILES))

pytestmark = pytest.mark.rule("2.7")


def packed(messages: list[bytes], most: int = compression.MOST_MESSAGES) -> tuple[list[int], list[bytes]]:
    packer = Packer(COMPRESSOR, most)
    places = [packer.add(COMPRESSOR.cut(each)) for each in messages]
    return places, packer.blocks()


def read_back(places: list[int], blocks: list[bytes]) -> list[bytes]:
    """As whoever finds the block of a message does: by its first one."""
    firsts = [number for number, place in enumerate(places) if place == 0]
    by_first = dict(zip(firsts, blocks, strict=True))
    return [COMPRESSOR.read(by_first[number - place], place)[0] for number, place in enumerate(places)]


MESSAGES = st.lists(
    st.lists(st.sampled_from([b"hello", b"\r\n", *FILES]), max_size=4).map(b"".join), max_size=12
)


@given(MESSAGES, st.integers(1, 5))
def test_each_message_is_read_from_its_block(messages: list[bytes], most: int) -> None:
    places, blocks = packed(messages, most)
    assert read_back(places, blocks) == messages
    assert places == [number % most for number in range(len(messages))]


@given(MESSAGES.filter(bool), st.randoms(use_true_random=False))
def test_in_any_order_from_any_block(messages: list[bytes], chance: random.Random) -> None:
    blocks = [(one, COMPRESSOR.compress(one)) for one in (messages, messages[::-1], [*messages, b"another"])]
    for _ in range(20):
        one, block = chance.choice(blocks)
        place = chance.randrange(len(one))
        assert COMPRESSOR.read(block, place)[0] == one[place]


def test_a_block_is_of_bounded_size_and_a_large_message_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MOST_OCTETS", 1000)
    small, large = b"x" * 400, b"y" * 5000
    messages = [small, small, small, large, small, large, large]
    places, blocks = packed(messages)
    assert places == [0, 1, 0, 0, 0, 0, 0]
    assert read_back(places, blocks) == messages
    with_files = [small + FILES[0] * 3, small + FILES[1] * 3]
    assert packed(with_files)[0] == [0, 0], "what is there twice is not taken out"
    assert packed([FILES[0] + small, FILES[1] + small])[0] == [0, 1], "a file costs a block nothing"


def test_usual_blocks_are_of_sixty_four() -> None:
    places, blocks = packed([b"hello"] * 130)
    assert places == [*range(64), *range(64), 0, 1]
    assert len(blocks) == 3


@pytest.mark.parametrize("place", [-1, 2, 64])
def test_what_is_not_in_a_block_is_not_read(place: int) -> None:
    block = COMPRESSOR.compress([b"first", b"second"])
    with pytest.raises(BadStoredMessage):
        COMPRESSOR.read(block, place)


def test_a_file_that_is_not_in_the_dictionary_is_not_read() -> None:
    block = COMPRESSOR.compress([FILES[0], FILES[1]])
    fewer = Compressor(dictionary.build(text=b"Subject: hello\r\n\r\nworld\r\n", blobs=FILES[:1]))
    assert fewer.read(block, 0)[0] == FILES[0]
    with pytest.raises(BadStoredMessage):
        fewer.read(block, 1)


def test_a_block_that_claims_to_be_huge_is_refused_before_room_is_made_for_it() -> None:
    # A frame header that is damaged in the content's size (RFC 8878 §3.1.1.1): 6 exbibytes are said to follow.
    block = bytes([0b1100_0000, 0x58]) + (6 << 60).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(BadStoredMessage):
        COMPRESSOR.read(block)

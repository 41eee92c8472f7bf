"""What may leave, and how it looks then."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.egress.content import refusal_of_data, refusal_of_paths
from mail_orchestration.kernel.message_lines import dot_stuffed

LINES = st.lists(st.sampled_from([b"", b".", b"..", b".x", b"x.", b"MAIL FROM:<a@b.example>", b"x" * 998]))
PIECES = st.lists(
    st.sampled_from([b"x", b".", b"\r", b"\n", b"\r\n", b"\0", b"y" * 500, b"z" * 997]), max_size=12
)


@given(LINES)
def test_dot_stuffing_hides_every_dot_and_can_be_undone(lines: list[bytes]) -> None:
    data = b"".join(line + b"\r\n" for line in lines)
    stuffed = dot_stuffed(data)
    assert b"\r\n.\r\n" not in b"\r\n" + stuffed
    assert re.sub(rb"(?m)^\.", b"", stuffed) == data


@pytest.mark.parametrize(
    ("data", "stuffed"),
    [
        (b"", b""),
        (b"x", b"x\r\n"),
        (b".", b"..\r\n"),
        (b".a\r\n.b\r\n", b"..a\r\n..b\r\n"),
        (b"a\r\n", b"a\r\n"),
    ],
)
def test_the_last_line_has_an_end(data: bytes, stuffed: bytes) -> None:
    assert dot_stuffed(data) == stuffed


@given(PIECES)
def test_bare_line_ends_nul_and_long_lines_are_refused_and_nothing_else(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    unfit = (
        re.search(rb"\r(?!\n)|(?<!\r)\n|\0", data) is not None
        or max((len(line) for line in data.split(b"\r\n")), default=0) > 998
    )
    assert (refusal_of_data(data) is not None) == unfit


@pytest.mark.parametrize("length", [997, 998, 999, 1000, 1997, 2500])
@pytest.mark.parametrize("end", [b"", b"\r\n"])
@pytest.mark.parametrize("before", [b"", b"short\r\n", b"x" * 998 + b"\r\n"])
def test_the_longest_line_has_998_octets(length: int, end: bytes, before: bytes) -> None:
    assert (refusal_of_data(before + b"x" * length + end) is None) == (length <= 998)


@pytest.mark.parametrize(
    "bad",
    [
        "a\r\nb@x.example",
        "a\0@x.example",
        "<a@x.example>",
        "a b@x.example",
        "a@x.example\n",
        "\x7f@x.example",
    ],
)
def test_a_path_with_what_ends_or_splits_a_command_is_refused(bad: str) -> None:
    assert refusal_of_paths("", bad) is not None
    assert refusal_of_paths(bad, "b@x.example") is not None


def test_lengths_and_emptiness_of_paths() -> None:
    assert refusal_of_paths("", "a@x.example") is None
    assert refusal_of_paths("a@x.example", "") is not None
    assert refusal_of_paths("", "a" * 242 + "@xy.example.") is None
    assert refusal_of_paths("", "a" * 243 + "@xy.example.") is not None
    assert refusal_of_paths("", "ü" * 125 + "@xy.example") is not None


@given(st.text(st.characters(max_codepoint=0x17F), max_size=300))
def test_a_path_holds_no_space_control_or_angle_bracket_and_254_octets(address: str) -> None:
    unfit = re.search(r"[\x00-\x20\x7f<>]", address) is not None or len(address.encode()) > 254
    assert (refusal_of_paths(address, "r@example.net") is not None) == unfit
    assert (refusal_of_paths("", address) is not None) == (unfit or not address)

"""Our own quoted-printable: what it says, how long its lines are, and that none begins with a dot."""

from __future__ import annotations

import binascii

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mail_orchestration.composition.bodies import LineQuoter

TEXTS = st.text(alphabet=st.sampled_from("...=ab \té€\x0b"), max_size=250)


@pytest.mark.rule("2.4")
@given(TEXTS)
@example("." * 300)
@example("a" * 75 + "." + "b" * 200)
@example("a" * 75 + "." + "b" * 72)
@example("a" * 75 + "." + "b" * 71 + "é" + "c" * 80)
@example("é" * 25 + "." + "é" * 40)
@example(". " * 100)
def test_it_says_the_same_in_lines_that_fit_and_begin_with_no_dot(text: str) -> None:
    quoted = LineQuoter().quote(text + "\n")
    assert binascii.a2b_qp(quoted) == text.encode() + b"\r\n"
    lines = quoted.split(b"\r\n")
    assert lines.pop() == b""
    for line in lines:
        assert len(line) <= 76
        assert not line.startswith(b".")
        assert not line.endswith((b" ", b"\t"))
        assert line.isascii()


def test_breaks_are_set_anew_only_where_a_dot_would_begin_a_line() -> None:
    quote = LineQuoter().quote
    assert quote("a" * 80 + ".\n") == b"a" * 75 + b"=\r\n" + b"a" * 5 + b".\r\n"
    assert quote("a" * 75 + ".b" + "\n") == b"a" * 75 + b"=\r\n=2Eb\r\n"
    assert quote("..\n") == b"=2E.\r\n"

"""While a thread checks rows, threads take short turns: the one that talks to the database must not wait for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from mail_orchestration.audience.checking_ahead import checked_ahead
from mail_orchestration.audience.rows import Batch, Layout
from mail_orchestration.kernel.errors import BadAudience

_BATCH = Batch(layout=Layout(width=1, address=0), lines=[1], rows=[["ann@example.com"]])


class _SeesTurns:
    name = "a source that sees how long a turn is"

    def __init__(self) -> None:
        self.turns: list[float] = []

    def batches(self) -> Iterator[Batch]:
        for _ in range(3):
            self.turns.append(sys.getswitchinterval())
            yield _BATCH
        raise BadAudience(f"{self.name}: gone")


@pytest.mark.parametrize("is_left_early", [True, False])
def test_turns_are_short_until_a_source_is_read_or_left(is_left_early: bool) -> None:
    before = sys.getswitchinterval()
    source = _SeesTurns()
    with closing(checked_ahead(source)) as chunks:
        assert next(chunks).rows == 1
        if not is_left_early:
            with pytest.raises(BadAudience, match="gone"):
                list(chunks)
    assert source.turns
    assert max(source.turns) <= before / 5
    assert sys.getswitchinterval() == before

"""What of a report is pure: texts without addresses, tables, cells, buckets, pictures."""

from __future__ import annotations

import re
import struct
import zlib
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from mail_orchestration.feedback.exports import safe_cell, to_csv
from mail_orchestration.feedback.plots import COLOURS, timeline_plot
from mail_orchestration.feedback.reports import BUCKETS, TimelineBucket, bucket_seconds, without_addresses
from mail_orchestration.feedback.tables import markdown_table
from mail_orchestration.kernel.attempts import Outcome

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("first", "=+-@\t\r")
def test_a_cell_that_begins_like_a_formula_is_made_a_text(first: str) -> None:
    assert safe_cell(first + "1+1") == "'" + first + "1+1"


def test_numbers_and_other_cells_stay_as_they_are() -> None:
    frame = pd.DataFrame({"text": ["=cmd()", "fine", None], "number": [-1, 2, 3]})
    assert to_csv(frame) == "text,number\r\n'=cmd(),-1\r\nfine,2\r\n,3\r\n"


@pytest.mark.parametrize(
    ("reply_text", "line"),
    [
        ("5.1.1 <bob@x.example>: unknown\r\nsorry", "5.1.1 ‹address› unknown sorry"),
        ('no "bob smith"@x.example here', "no ‹address› here"),
        (None, ""),
        ("x" * 500, "x" * 160),
    ],
)
def test_a_reply_is_shown_without_addresses(reply_text: str | None, line: str) -> None:
    assert without_addresses(reply_text) == line


def test_a_reason_is_shown_whole() -> None:
    reason = "stopped: " + "very slowly, " * 20 + "by ann@example.com"
    assert without_addresses(reason, most=None) == reason.replace("ann@example.com", "‹address›")


def test_a_table_keeps_its_shape_whatever_is_in_it() -> None:
    table = markdown_table(["domain", "mail_job_id", "rate"], [["a|b\n<c>", 12345, 1234.56], ["d", 7, None]])
    assert table.splitlines() == [
        "| domain | mail job id | rate |",
        "| --- | ---: | ---: |",
        "| a\\|b \\<c\\> | 12345 | 1,234.6 |",
        "| d | 7 |  |",
    ]


@pytest.mark.parametrize(
    ("seconds", "width"), [(0, 1), (100, 1), (119, 2), (3600, 60), (86_400, 1800), (10**9, 604_800)]
)
def test_buckets_are_narrow_but_not_many(seconds: float, width: int) -> None:
    assert bucket_seconds(seconds) == width
    # One more than the span has room for: neither end need stand on a bucket's edge.
    assert width == 604_800 or seconds // width + 2 <= BUCKETS + 1


def test_the_timeline_is_a_small_png_with_its_colours_in_it() -> None:
    timeline = [
        TimelineBucket(starts_at=NOON + timedelta(seconds=second), outcome=outcome, results=90 - second)
        for second in range(90)
        for outcome in (Outcome.ACCEPTED, Outcome.REJECTED, Outcome.UNCERTAIN)
        if second != 40
    ]
    png = timeline_plot(timeline, 1)
    assert len(png) <= 40_000
    size, pixels = _pixels(png)
    assert size == (760, 280)
    for outcome in (Outcome.ACCEPTED, Outcome.REJECTED, Outcome.UNCERTAIN):
        assert pixels.count(bytes.fromhex(COLOURS[outcome][1:] + "ff")) > 500
    assert pixels.count(bytes.fromhex(COLOURS[Outcome.DEFERRED][1:] + "ff")) == 0


def test_a_timeline_without_results_says_so() -> None:
    _, pixels = _pixels(timeline_plot([], 1))
    assert len(set(re.findall(b"....", pixels, re.DOTALL))) > 10


def _pixels(png: bytes) -> tuple[tuple[int, int], bytes]:
    """Width and height, and the pixels as RGBA, by way of matplotlib's own reader."""
    import io

    import matplotlib.image

    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert zlib.crc32(png[12:29]) == struct.unpack(">I", png[29:33])[0]
    array = matplotlib.image.imread(io.BytesIO(png), format="png")
    return (array.shape[1], array.shape[0]), (array * 255).round().astype("uint8").tobytes()

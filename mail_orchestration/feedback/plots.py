"""Small pictures of a report, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from mail_orchestration.feedback.reports import TimelineBucket
from mail_orchestration.kernel.model import Outcome

# Told apart in grey and by colour-blind eyes too; the good end is calm, the bad ends are not.
COLOURS = {
    Outcome.ACCEPTED: "#2a9d6f",
    Outcome.DEFERRED: "#e9b949",
    Outcome.REJECTED: "#c8402f",
    Outcome.UNCERTAIN: "#7b4fb5",
    Outcome.STOPPED: "#8a8f98",
    Outcome.EXPIRED: "#4a4e57",
}

_UNITS = ((1, "second"), (60, "minute"), (3600, "hour"), (86_400, "day"), (604_800, "week"))


def timeline_plot(timeline: Sequence[TimelineBucket], bucket_seconds: int, title: str = "") -> bytes:
    """Results over time, outcomes on top of each other: a PNG of 760 × 280 pixels and some kilobytes."""
    # Not pyplot: it keeps every figure and is not safe among threads. Imported here: it takes half a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = Figure(figsize=(7.6, 2.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if timeline:
        starts = _every_start(timeline, bucket_seconds)
        half = timedelta(seconds=bucket_seconds / 2)
        middles = date2num([start + half for start in starts])  # type: ignore[no-untyped-call]
        below = [0] * len(starts)
        for outcome in Outcome:
            heights = _heights(timeline, outcome, starts)
            if any(heights):
                axes.bar(
                    middles,
                    heights,
                    bottom=below,
                    width=0.92 * bucket_seconds / 86_400,
                    color=COLOURS[outcome],
                    label=f"{outcome} {sum(heights):,}",
                    linewidth=0,
                )
                below = [low + height for low, height in zip(below, heights, strict=True)]
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=6, frameon=False, fontsize=8, handlelength=0.9
        )
        axes.xaxis_date(UTC)
        locator = AutoDateLocator(tz=UTC, minticks=3, maxticks=9)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        formatter = ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_formatter(formatter)
    else:
        axes.text(
            0.5, 0.5, "no result yet", ha="center", va="center", transform=axes.transAxes, color="#8a8f98"
        )
        axes.set_xticks([])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylabel(f"results per {_span(bucket_seconds)}", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8, length=2)
    axes.xaxis.get_offset_text().set_fontsize(8)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _every_start(timeline: Sequence[TimelineBucket], bucket_seconds: int) -> list[datetime]:
    """All buckets from the first to the last, the empty ones too; without end only where weeks are."""
    first, last = timeline[0].starts_at, max(bucket.starts_at for bucket in timeline)
    count = int((last - first).total_seconds()) // bucket_seconds + 1
    return [first + timedelta(seconds=bucket_seconds * index) for index in range(count)]


def _heights(timeline: Sequence[TimelineBucket], outcome: Outcome, starts: Sequence[datetime]) -> list[int]:
    found = {bucket.starts_at: bucket.results for bucket in timeline if bucket.outcome is outcome}
    return [found.get(start, 0) for start in starts]


def _span(seconds: int) -> str:
    width, unit = next((width, unit) for width, unit in reversed(_UNITS) if seconds % width == 0)
    return unit if seconds == width else f"{seconds // width} {unit}s"

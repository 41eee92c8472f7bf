"""Small pictures of a report and of the frequency queue, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from mail_orchestration.feedback.frequency_figures import QueueDay
from mail_orchestration.feedback.reports import TimelineBucket
from mail_orchestration.kernel.attempts import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart in grey and by colour-blind eyes too; the good end is calm, the bad ends are not.
COLOURS = {
    Outcome.ACCEPTED: "#2a9d6f",
    Outcome.DEFERRED: "#e9b949",
    Outcome.REJECTED: "#c8402f",
    Outcome.UNCERTAIN: "#7b4fb5",
    Outcome.STOPPED: "#8a8f98",
    Outcome.EXPIRED: "#4a4e57",
}
WAITING = "#c3d5e8"
NOON = time(12, tzinfo=UTC)
HALF_A_DAY = timedelta(hours=12)

_UNITS = ((1, "second"), (60, "minute"), (3600, "hour"), (86_400, "day"), (604_800, "week"))


def timeline_plot(timeline: Sequence[TimelineBucket], bucket_seconds: int, title: str = "") -> bytes:
    """Results over time, outcomes on top of each other: a PNG of 760 × 280 pixels and some kilobytes."""
    figure, axes = _figure_with_axes()
    if timeline:
        starts = _every_start(timeline, bucket_seconds)
        half = timedelta(seconds=bucket_seconds / 2)
        stack = {
            outcome: heights for outcome in Outcome if any(heights := _heights(timeline, outcome, starts))
        }
        _stack_bars(
            axes,
            [start + half for start in starts],
            bucket_seconds / 86_400,
            [
                (f"{outcome} {sum(heights):,}", COLOURS[outcome], heights)
                for outcome, heights in stack.items()
            ],
        )
        _legend_and_dates(axes)
    else:
        _say(axes, "no result yet")
    axes.set_ylabel(f"results per {_span(bucket_seconds)}", fontsize=8)
    return _png(figure, axes, title)


def held_plot(days: Sequence[QueueDay], title: str = "") -> bytes:
    """What waited in the frequency queue at the end of each day, and what left it: a PNG of the same size."""
    figure, axes = _figure_with_axes()
    if any(each.waiting or each.held or each.sent or each.ended_unsent for each in days):
        noons = [datetime.combine(each.day, NOON) for each in days]
        waiting = [each.waiting for each in days]
        axes.bar(
            _numbers(noons),
            waiting,
            width=1,
            color=WAITING,
            linewidth=0,
            label=f"waiting at the day's end, {waiting[-1]:,} now",
        )
        ends = (
            ("sent later", COLOURS[Outcome.ACCEPTED], [each.sent for each in days]),
            ("ended unsent", COLOURS[Outcome.EXPIRED], [each.ended_unsent for each in days]),
        )
        _stack_bars(
            axes,
            noons,
            0.5,
            [(f"{name} {sum(mails):,}", colour, mails) for name, colour, mails in ends if any(mails)],
        )
        _legend_and_dates(axes)
        axes.set_xlim(_numbers([noons[0] - HALF_A_DAY])[0], _numbers([noons[-1] + HALF_A_DAY])[0])
    else:
        _say(axes, "nothing was held in these days")
    axes.set_ylabel("held mails", fontsize=8)
    return _png(figure, axes, title)


def _figure_with_axes() -> tuple[Figure, Axes]:
    # Not pyplot: it keeps every figure and is not safe among threads. Imported here: it takes half a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 2.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _stack_bars(
    axes: Axes, moments: Sequence[datetime], days: float, stack: Sequence[tuple[str, str, Sequence[int]]]
) -> None:
    """Bars in the midst of `days` days each: label, colour and heights of each layer, the lowest first."""
    below = [0] * len(moments)
    for label, colour, heights in stack:
        axes.bar(
            _numbers(moments),
            heights,
            bottom=below,
            width=0.92 * days,
            color=colour,
            label=label,
            linewidth=0,
        )
        below = [low + height for low, height in zip(below, heights, strict=True)]


def _numbers(moments: Sequence[datetime]) -> Any:
    from matplotlib.dates import date2num

    return date2num(moments)  # type: ignore[no-untyped-call]


def _legend_and_dates(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=6, frameon=False, fontsize=8, handlelength=0.9
    )
    axes.xaxis_date(UTC)
    locator = AutoDateLocator(tz=UTC, minticks=3, maxticks=9)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)


def _say(axes: Axes, sentence: str) -> None:
    axes.text(0.5, 0.5, sentence, ha="center", va="center", transform=axes.transAxes, color="#8a8f98")
    axes.set_xticks([])


def _png(figure: Figure, axes: Axes, title: str) -> bytes:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
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

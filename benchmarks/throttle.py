"""The shared throttle, measured by the relay: how near to a limit several mailcasters come, and never above it.

    python -m benchmarks.throttle --seconds 30 --rounds 5

First 1, 4 and 8 mailcasters, each a process of its own, under a limit per second, per minute and of a recipient domain.
Told are the most in any window of the limit's length, by when octets arrived at the relay, and the rate while everybody
had work (the first and last tenth of the messages are left out); that the relay read them later stands beside it.

Then the cost: two mailcasters at full speed at the same moment, without limits and under limits that do not bind:
messages a second, and the mailcaster's CPU for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import command_line
from benchmarks.harness.databases import own_folder
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.harness.noting_relay import noting_relay
from benchmarks.harness.postfix import sink
from benchmarks.harness.shift import Shift, shifts, shifts_beside
from benchmarks.harness.site import addresses, release, write_site
from mail_orchestration.installation import open_installation
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from tests.scenarios.relays.arrivals import most_in_a_window

UNBINDING = {
    "per_second": 100_000,
    "per_minute": 3_000_000,
    "per_hour": 100_000_000,
    "per_day": 1_000_000_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    seconds: float = 30.0
    """That each row of the table lasts, about."""
    fleets: str = "1,4,8"
    """How many mailcasters."""
    child: int = MailcasterParameters(name="usual").min_job_size
    """Messages of a child of several mailcasters'. Smaller ones end more often."""
    rows: str = "per_second,per_minute,domain"
    rounds: int = 10
    """Of the comparison."""
    round_seconds: float = 5.0
    contacts: int = 400_000
    """Of the comparison, for each of the two. They are written to anew when one has come to its end."""


@dataclass(frozen=True, slots=True)
class Row:
    """A limit, how long its window is, and whether it is of a recipient domain."""

    limits: dict[str, int]
    window_s: float
    is_of_domain: bool = False

    @property
    def per_second(self) -> float:
        """The limit's rate."""
        return next(iter(self.limits.values())) / self.window_s


ROWS = {
    "per_second": Row({"per_second": 100}, 1.0),
    "per_minute": Row({"per_minute": 6000}, 60.0),
    "domain": Row({"per_second": 50}, 1.0, is_of_domain=True),
}


def measure(sizes: Sizes) -> list[Measurement]:
    """How near each limit they come, and what a throttle costs."""
    found = []
    with own_folder() as folder:
        for name in filter(None, sizes.rows.split(",")):
            for fleet in map(int, sizes.fleets.split(",")):
                found += near(folder, name, fleet, sizes)
    if sizes.rounds:
        found += cost(sizes)
    return found


def near(folder: Path, name: str, fleet: int, sizes: Sizes) -> list[Measurement]:
    """The most in a window, and the rate, beside the limit."""
    row = ROWS[name]
    seconds = max(sizes.seconds, 1.5 * row.window_s)
    # One child for each at least: who has come to the end of its work waits for no slot.
    count = max(int(row.per_second * seconds), fleet * sizes.child)
    heard = limited_messages(folder, fleet, row, count, sizes.child)
    most = row.per_second * row.window_s
    windows = {what: most_in_a_window(heard[what], row.window_s) for what in ("arrived", "read", "dots")}
    who = f"{name}, {fleet} mailcaster{'s' if fleet > 1 else ''}"
    return [
        Measurement(
            name=f"{who}: most in a window ({windows['read']} as read, {windows['dots']} by final dots)",
            unit="mails",
            runs=(windows["arrived"],),
            reference="the limit",
            reference_runs=(most,),
            target=Target(at_most=1.0),
        ),
        Measurement(
            name=f"{who}: rate",
            unit="mails/s",
            runs=(rate_of(heard["arrived"]),),
            reference="the limit",
            reference_runs=(row.per_second,),
            target=Target(at_least=0.95),
        ),
    ]


def limited_messages(folder: Path, fleet: int, row: Row, count: int, child: int) -> dict[str, list[float]]:
    """When the limited messages of one release came to the relay."""
    names = [f"m{number}" for number in range(fleet)]
    contacts = addresses(count, "limited.example")
    if row.is_of_domain:
        free = addresses(count, "free.example")
        contacts = [each for pair in zip(contacts, free, strict=True) for each in pair]
    with noting_relay() as (port, heard):
        settings = write_site(
            folder,
            port,
            contacts,
            connections=10,
            limits={} if row.is_of_domain else row.limits,
            domains=[{"name": "limited.example", "limits": row.limits}] if row.is_of_domain else (),
            mailcasters=names,
            parameters={name: {"min_job_size": child, "max_job_size": child + 1} for name in names},
        )
        released(settings)
        shifts(settings, names)
        found = heard()
    assert len(found["read"]) == count, f"{len(found['read'])} of {count} messages came"
    return found


def cost(sizes: Sizes) -> list[Measurement]:
    """What a throttle costs that does not bind: two mailcasters at the same moment, each with a relay and a database.

    What else happens on the machine happens to both.
    """
    contacts = addresses(sizes.contacts, "free.example")
    runs: dict[bool, list[Shift]] = {False: [], True: []}
    with ExitStack() as stack:
        sites = {
            is_limited: write_site(
                stack.enter_context(own_folder()),
                stack.enter_context(sink()),
                contacts,
                limits=UNBINDING if is_limited else {},
                domains=[{"name": "free.example", "limits": UNBINDING}] if is_limited else (),
            )
            for is_limited in runs
        }
        for settings in sites.values():
            released(settings)
        seconds, is_fresh = sizes.round_seconds, True
        while len(runs[True]) < sizes.rounds:
            order = sorted(runs, reverse=bool(len(runs[True]) % 2))
            found = shifts_beside([(sites[is_limited], "m1") for is_limited in order], seconds)
            if all(each.was_stopped for each in found):
                for is_limited, shift in zip(order, found, strict=True):
                    runs[is_limited].append(shift)
                is_fresh = False
                continue
            # One was through before its time: the other one was not beside it to the end, and the round does not count.
            if is_fresh:
                seconds /= 2
            for settings in sites.values():
                released(settings)
            is_fresh = True
    assert all(each.messages for done in runs.values() for each in done), "somebody sent nothing in a round"
    return [
        Measurement(
            name="delivery under limits that do not bind",
            unit="messages/s",
            runs=tuple(each.rate for each in runs[True]),
            reference="without limits, at the same moment",
            reference_runs=tuple(each.rate for each in runs[False]),
            target=Target(at_least=0.98),
        ),
        Measurement(
            name="the mailcaster's CPU for each message, under limits that do not bind",
            unit="µs",
            runs=tuple(1e6 * each.cpu_seconds / each.messages for each in runs[True]),
            reference="without limits, at the same moment",
            reference_runs=tuple(1e6 * each.cpu_seconds / each.messages for each in runs[False]),
            target=Target(at_most=1.02),
        ),
    ]


def released(settings: Path) -> None:
    """Everybody gets a letter of 5 KB, in a mail job of its own."""
    with open_installation(settings, application_name="benchmark") as inst:
        release(inst)


def rate_of(moments: Sequence[float]) -> float:
    """Messages a second between the first and the last tenth."""
    tenth = len(moments) // 10
    inner = moments[tenth:-tenth]
    return (len(inner) - 1) / (inner[-1] - inner[0])


if __name__ == "__main__":
    command_line.run(
        __doc__,
        measure,
        full=Sizes(),
        quick=Sizes(
            child=100, seconds=4, fleets="2", rows="per_second", rounds=1, round_seconds=2, contacts=20_000
        ),
    )

"""What Dagster adds: to a child of 10,000 messages, and between a release and its first message.

    python -m benchmarks.under_dagster --children 30 --rounds 3

Dagster's daemon runs with deploy/dagster.yaml and all sensors, as `mail-orchestration dev` starts it. The reference is
the same without it, by the library's stories alone. A child is timed from its claim to the claim of the next one, by
the database's clock, so that what a mailcaster tells Dagster between two of them is in it. Of all children the median
is taken. Beside it is the mean of each release, with the other runs that Dagster starts at its beginning. Campaigns to
100 are released while nothing else is done, each at another part of the sensors' interval.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import mean

import yaml
from sqlalchemy import text

from benchmarks.harness import command_line
from benchmarks.harness.daemon import daemon, wait_until
from benchmarks.harness.databases import own_folder
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.harness.postfix import sink
from benchmarks.harness.shift import shifts
from benchmarks.harness.site import addresses, release, write_contacts, write_site
from mail_orchestration import broadcast
from mail_orchestration.installation import Installation, open_installation
from mail_orchestration.mailcaster import run_shift

SMALL = 100
PROMISED_S = 15.0
MORE_OF_A_CHILD = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    child: int = 10_000
    children: int = 30
    """Of each release that is measured; the last one is not, since nothing is claimed after it."""
    rounds: int = 3
    campaigns: int = 6
    """To 100, one after the other."""


def measure(sizes: Sizes) -> list[Measurement]:
    """Children without Dagster and with it in turn; small campaigns where Dagster is up after the last of them."""
    seconds: dict[str, list[float]] = defaultdict(list)
    with own_folder() as folder, sink() as port:
        settings = write_site(folder, port, addresses(sizes.child * sizes.children))
        make_children_of(settings, sizes.child)
        with open_installation(settings, application_name="benchmark") as inst:
            for number in range(1, sizes.rounds + 1):
                write_contacts(folder, addresses(sizes.child * sizes.children))
                release_id = release(inst).release_id
                shifts(settings)
                note_children(seconds, "alone", seconds_of_children(inst, release_id))
                release_id = release(inst).release_id
                with daemon(folder, settings, inst):
                    wait_until(inst, has_ended(release_id))
                    note_children(seconds, "under Dagster", seconds_of_children(inst, release_id))
                    if number == sizes.rounds:
                        write_contacts(folder, addresses(SMALL))
                        broadcast.fill_audience(inst, "everybody", now=datetime.now(UTC), mode="replace")
                        seconds["first message"] = first_messages(inst, sizes.campaigns)
            for _ in range(sizes.campaigns):
                seconds["first message alone"].append(first_message_alone(inst))
    return [*_of_children(seconds, sizes), *_of_first_messages(seconds)]


def _of_children(seconds: dict[str, list[float]], sizes: Sizes) -> Iterator[Measurement]:
    for which, target in (("each", Target(at_most=MORE_OF_A_CHILD)), ("mean of a release's", None)):
        yield Measurement(
            name=f"a child of {sizes.child:,} under Dagster, from its claim to the next claim, {which}",
            unit="s",
            runs=tuple(seconds[f"{which} under Dagster"]),
            reference="the same mailcaster without Dagster",
            reference_runs=tuple(seconds[f"{which} alone"]),
            target=target,
            goal=5,
        )


def _of_first_messages(seconds: dict[str, list[float]]) -> Iterator[Measurement]:
    waited, alone = seconds["first message"], seconds["first message alone"]
    for which, ours, beside in (("", waited, alone), (", the longest", [max(waited)], [max(alone)])):
        yield Measurement(
            name=f"from release to first message, {SMALL} recipients, idle system{which}",
            unit="s",
            runs=tuple(ours),
            reference="the library's steps one after the other, without Dagster",
            reference_runs=tuple(beside),
            target=Target(at_most=PROMISED_S, of="value"),
            goal=5,
        )


def first_messages(inst: Installation, campaigns: int) -> list[float]:
    """Seconds until the first one of each."""
    waited = []
    for number in range(campaigns):
        time.sleep(6 + number * 5 / campaigns)
        waited.append(first_message(inst))
    return waited


def make_children_of(settings: Path, size: int) -> None:
    """Let the mailcaster cut mail jobs in children of this size."""
    document = yaml.safe_load(settings.read_text(encoding="utf-8"))
    small_audience = {"small_audience_threshold": min(SMALL, size - 1)}
    for mailcaster in document["mailcasters"]:
        mailcaster |= {
            "min_job_size": size - 1,
            "max_job_size": size,
            "percentage_job_size": 1,
        } | small_audience
    settings.write_text(yaml.safe_dump(document), encoding="utf-8")


def has_ended(release_id: int) -> str:
    return f"SELECT ended_at IS NOT NULL FROM mail_job WHERE mail_job_id = {release_id}"


def seconds_of_children(inst: Installation, release_id: int) -> list[float]:
    """Of each but the last, from its claim to the next one."""
    with inst.database.begin() as connection:
        claims = connection.execute(
            text("SELECT started_at FROM mail_job WHERE parent_id = :r ORDER BY started_at"),
            {"r": release_id},
        ).scalars()
        return [(later - earlier).total_seconds() for earlier, later in pairwise(claims.all())]


def note_children(seconds: dict[str, list[float]], where: str, taken: list[float]) -> None:
    """Each, and their mean: at the beginning of a release Dagster starts other runs, which take a core for seconds."""
    seconds[f"each {where}"] += taken
    seconds[f"mean of a release's {where}"].append(mean(taken))


def first_message(inst: Installation) -> float:
    """Seconds from a release to its first result, by the database's clock; returns when the release has ended."""
    release_id = released(inst)
    wait_until(inst, has_ended(release_id))
    return waited(inst, release_id)


def first_message_alone(inst: Installation) -> float:
    """The same without Dagster."""
    release_id = released(inst)
    now = datetime.now(UTC)
    broadcast.resolve_release(inst, release_id, now=now)
    broadcast.assemble_release(inst, release_id, now=now)
    broadcast.queue_release(inst, release_id, now=now)
    run_shift(inst, "m1", stop=threading.Event())
    return waited(inst, release_id)


def released(inst: Installation) -> int:
    folder = inst.settings.folder / "campaigns" / "letter"
    return broadcast.release_campaign(inst, folder, now=datetime.now(UTC), again=True).release_id


def waited(inst: Installation, release_id: int) -> float:
    return answer(
        inst,
        "SELECT extract(epoch FROM min(r.occurred_at) - min(j.created_at)) "
        "FROM result AS r JOIN mail_job AS j ON j.mail_job_id = r.release_id WHERE r.release_id = :r",
        release_id,
    )


def answer(inst: Installation, question: str, release_id: int) -> float:
    """What the database answers of a release `:r`."""
    with inst.database.begin() as connection:
        return float(connection.execute(text(question), {"r": release_id}).scalar_one())


if __name__ == "__main__":
    command_line.run(
        __doc__, measure, full=Sizes(), quick=Sizes(child=300, children=3, rounds=1, campaigns=1)
    )

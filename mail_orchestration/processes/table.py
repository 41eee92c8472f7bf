"""What the processes are. Dagster's sensors and schedules take their names and descriptions from here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mail_orchestration.kernel.errors import NotFound


class Scope(StrEnum):
    """Whose work a process does."""

    INSTALLATION = "installation"
    """That of the installation whose settings Dagster runs with."""
    ALL = "all"
    """That of all installations of the database."""


class Trigger(StrEnum):
    """What in Dagster makes it run, and can be switched off."""

    SENSOR = "sensor"
    SCHEDULE = "schedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process: what it does, and which of Dagster's parts do it."""

    name: str
    """Also that of its sensor or schedule."""
    title: str
    description: str
    scope: Scope
    trigger: Trigger
    jobs: tuple[str, ...]
    """The jobs of its runs; none where looking is all that it does."""
    is_per_mail_job: bool = False
    """Each run is for one mail job, which is the run's partition."""


PROCESSES: tuple[Process, ...] = (
    Process(
        name="assemble",
        title="Assemble",
        description=(
            "Chooses the recipients of each new release, and composes and stores all of its messages. Nothing is "
            "sent yet. Switched off, what is released waits."
        ),
        scope=Scope.INSTALLATION,
        trigger=Trigger.SENSOR,
        jobs=("assemble",),
        is_per_mail_job=True,
    ),
    Process(
        name="queue_for_delivery",
        title="Queue for delivery",
        description=(
            "Puts each assembled mail job whose start time has come into the global queue. Switched off, mail jobs "
            "stay assembled, and nothing new is sent."
        ),
        scope=Scope.INSTALLATION,
        trigger=Trigger.SENSOR,
        jobs=("queue_for_delivery",),
        is_per_mail_job=True,
    ),
    Process(
        name="global_delivery_queue",
        title="Global delivery queue",
        description=(
            "Wakes each mailcaster for whom there is work and who is not at work already, and the single mailer when a "
            "single mail or a retry is due. Switched off, shifts that run end when they find no more work, and no new "
            "one begins; to stop at once, hold sending."
        ),
        scope=Scope.ALL,
        trigger=Trigger.SENSOR,
        jobs=("mailcaster", "single_mailer"),
    ),
    Process(
        name="report",
        title="Report",
        description="Writes the report of each mail job that has ended: what became of every message.",
        scope=Scope.INSTALLATION,
        trigger=Trigger.SENSOR,
        jobs=("report",),
        is_per_mail_job=True,
    ),
    Process(
        name="partition_keys",
        title="Partition keys",
        description=(
            "Makes mail jobs and their children known to Dagster as partitions where they came about without it, "
            "such as from the command line. It looks, and starts no run."
        ),
        scope=Scope.INSTALLATION,
        trigger=Trigger.SENSOR,
        jobs=(),
    ),
    Process(
        name="close_of_the_day",
        title="Close of the day",
        description=(
            "Every night: closes the days that are over, brings the frequency counters up to date, and sends what was "
            "held and is allowed by now. A night that was missed is made up for by the next one."
        ),
        scope=Scope.INSTALLATION,
        trigger=Trigger.SCHEDULE,
        jobs=("close_of_the_day",),
    ),
    Process(
        name="clean_delivery_queue",
        title="Clean delivery queue",
        description=(
            "Every ten minutes: marks interrupted mail jobs, lets go in the place of dead mailcasters, fails dead "
            "runs, and takes away what is old."
        ),
        scope=Scope.ALL,
        trigger=Trigger.SCHEDULE,
        jobs=("clean_delivery_queue",),
    ),
)
"""In the order that mail flows; then what goes by the clock."""


def process(name: str) -> Process:
    """The process of that name. Raises NotFound listing the names there are."""
    for each in PROCESSES:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in PROCESSES)
    raise NotFound(f"there is no process {name!r} (there are: {known})")

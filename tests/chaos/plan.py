"""Which faults, in which order, and which releases: all of it drawn from one seed.

The same seed draws the same faults in the same order on the same mailcasters. The moments differ, as do the messages
that each fault meets: those depend on how fast the machine was.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest

from tests.chaos.site import Audience


class Kind(StrEnum):
    """A kind of fault."""

    MAILCASTER = "kill -9 of a mailcaster"
    ASSEMBLER = "kill -9 of the assembler"
    ASSEMBLY_WORKER = "kill -9 of an assembly process"
    DEDUP = "kill -9 of release and dedup"
    IMPORTER = "kill -9 of an import"
    POSTMASTER = "kill -9 of PostgreSQL's postmaster"
    DAEMON = "kill -9 of Dagster's daemon"
    WEBSERVER = "kill -9 of Dagster's webserver"
    CODE_SERVER = "kill -9 of Dagster's code server"
    SUSPENDED = "SIGSTOP past the hang time, SIGCONT"
    TWIN = "a second mailcaster of the same name"
    CLOCK = "kill -9, the next one's clock hours off"
    HOST_CUT_OFF = "a host's network cut past the hang time"
    STOPPED = "stop by the operator, restart"
    DEFERS = "4xx to everybody for a while"
    SLOW = "relay slow to accept for a while"

    @property
    def is_kill(self) -> bool:
        """Whether it counts as a kill -9."""
        return self.value.startswith("kill -9")

    @property
    def is_dagster(self) -> bool:
        """Whether it needs Dagster's processes."""
        return self in (Kind.DAEMON, Kind.WEBSERVER, Kind.CODE_SERVER)


SHARE_OF_KILLS = {
    Kind.ASSEMBLER: 0.03,
    Kind.ASSEMBLY_WORKER: 0.03,
    Kind.DEDUP: 0.03,
    Kind.IMPORTER: 0.02,
    Kind.POSTMASTER: 0.04,
    Kind.CLOCK: 0.04,
}
"""Of the kills; the rest are kills of mailcasters."""
OTHERS_PER_KILL = {
    Kind.SUSPENDED: 0.06,
    Kind.TWIN: 0.04,
    Kind.HOST_CUT_OFF: 0.02,
    Kind.STOPPED: 0.04,
    Kind.DEFERS: 0.01,
    Kind.SLOW: 0.02,
}
"""Faults beside the kills."""
SKEWS_S = (3600.0, -3600.0, 3 * 3600.0, -3 * 3600.0)
"""What clocks are off by."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault: on whom, and with what."""

    number: int
    kind: Kind
    victim: float
    """Where in the list of those who can be hit, from 0 to 1."""
    wait: float
    """From 0 to 1: how long after its occasion, such as the beginning of an assembly."""
    skew_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the seed says."""

    seed: int
    faults: Sequence[Fault]
    audiences: Sequence[Audience]
    campaigns: Mapping[str, Sequence[str]]
    """Name, and the audiences it goes to."""
    releases: Sequence[str]
    """Campaigns in the order in which they are released, worth `messages` in all."""
    later: random.Random
    """What more is drawn when the planned releases are used up before the faults are."""

    @property
    def messages(self) -> int:
        """Of the planned releases."""
        return sum(self.size(name) for name in self.releases)

    def size(self, campaign: str) -> int:
        """Recipients of a campaign: each audience holds the smaller ones."""
        sizes = {each.name: each.size for each in self.audiences}
        return max(sizes[name] for name in self.campaigns[campaign])

    def one_more(self) -> str:
        """A campaign to release beyond the plan."""
        return _one_of(self.later)


_RELEASED = {"tiny": 2, "small": 3, "middling": 3, "large": 4, "overlap": 2, "huge": 2}
"""Campaigns, and how often each is drawn."""


def _one_of(drawn: random.Random) -> str:
    return drawn.choices(list(_RELEASED), list(_RELEASED.values()))[0]


def draw(
    *, seed: int, kills: int, messages: int, dagster: int = 0, without: frozenset[Kind] = frozenset()
) -> Plan:
    """The plan for so many kills over at least so many messages, leaving out the kinds `without`.

    Each of Dagster's processes is killed `dagster` times.
    """
    drawn = random.Random(f"{seed} faults")
    kinds = [kind for kind, share in SHARE_OF_KILLS.items() for _ in range(max(1, round(share * kills)))]
    kinds += [kind for kind in Kind if kind.is_dagster for _ in range(dagster)]
    others = [kind for kind, per in OTHERS_PER_KILL.items() for _ in range(max(1, round(per * kills)))]
    kinds = [kind for kind in kinds if kind not in without]
    kinds += [Kind.MAILCASTER] * (kills - len(kinds))
    kinds += [kind for kind in others if kind not in without]
    drawn.shuffle(kinds)
    kinds = _together([kind for kind in kinds if kind.is_dagster], kinds, drawn)
    faults = [
        Fault(
            number=number,
            kind=kind,
            victim=drawn.random(),
            wait=drawn.random(),
            skew_s=drawn.choice(SKEWS_S) if kind is Kind.CLOCK else 0.0,
        )
        for number, kind in enumerate(kinds, 1)
    ]
    audiences = [
        Audience(name="tiny", size=7),
        Audience(name="small", size=80),
        Audience(name="middling", size=max(150, messages // 200)),
        Audience(name="large", size=max(400, messages // 30)),
        Audience(name="huge", size=max(1000, messages // 12)),
    ]
    campaigns = {each.name: (each.name,) for each in audiences} | {"overlap": ("large", "middling")}
    plan = Plan(
        seed=seed,
        faults=faults,
        audiences=audiences,
        campaigns=campaigns,
        releases=[],
        later=random.Random(f"{seed} later"),
    )
    order, drawn = list(_RELEASED), random.Random(f"{seed} releases")
    releases = [*order]
    while sum(map(plan.size, releases)) < messages:
        releases.append(_one_of(drawn))
    return Plan(**{**vars(plan), "releases": releases})


def _together(dagster: list[Kind], kinds: list[Kind], drawn: random.Random) -> list[Kind]:
    """Dagster's faults one after another, so that it runs for a part of the time only."""
    if not dagster:
        return kinds
    rest = [kind for kind in kinds if not kind.is_dagster]
    at = len(rest) // 4 + drawn.randrange(1 + len(rest) // 4)
    between = rest[at : at + len(dagster)]
    phase = [kind for pair in zip_longest(dagster, between) for kind in pair if kind is not None]
    return rest[:at] + phase + rest[at + len(dagster) :]

"""The memory and the CPU of a process with all below it (Linux)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

LOOK_EVERY_S = 0.5


@dataclass(slots=True)
class Watched:
    """What was seen of one family of processes."""

    megabytes: list[float] = field(default_factory=list)
    """Of the largest process at each look, without memory that it shares."""
    cpu_before: dict[int, float] = field(default_factory=dict)
    """Seconds of each process that was there at the first look."""
    cpu: dict[int, float] = field(default_factory=dict)
    """Seconds of each process at the last look at it."""

    @property
    def cpu_seconds(self) -> float:
        """What all of them used meanwhile, but for what each did after the last look at it."""
        return sum(self.cpu.values()) - sum(self.cpu_before.values())

    @property
    def peak_mb(self) -> float:
        """Of the largest process."""
        return max(self.megabytes)

    @property
    def thirds_mb(self) -> tuple[float, float, float]:
        """The peak of the first, of the middle and of the last third."""
        third = max(1, len(self.megabytes) // 3)
        first, middle, last = self.megabytes[:third], self.megabytes[third:-third], self.megabytes[-third:]
        return max(first), max(middle or last), max(last)

    def look(self, processes: set[int]) -> None:
        """Once."""
        sizes = []
        for process in processes:
            with suppress(OSError, KeyError, IndexError):  # it has ended
                sizes.append(_megabytes(process))
                self.cpu[process] = _cpu_seconds(process)
        self.megabytes.append(max(sizes, default=0.0))


@contextmanager
def watching(**families: int) -> Iterator[dict[str, Watched]]:
    """Look at families of processes, each told by the number of its first one, until the block ends."""
    seen = {name: Watched() for name in families}
    is_over = threading.Event()

    def look() -> None:
        tree = _parents()
        for name, first in families.items():
            seen[name].look(_family(first, tree))

    def look_again() -> None:
        while not is_over.wait(LOOK_EVERY_S):
            look()

    look()
    for each in seen.values():
        each.cpu_before = dict(each.cpu)
    looker = threading.Thread(target=look_again)
    looker.start()
    try:
        yield seen
    finally:
        is_over.set()
        looker.join()


def parent_of(process: int) -> int:
    """The process that started it."""
    return int(_stat(process)[1])


def _parents() -> dict[int, int]:
    """Every process and its parent."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            found[int(entry.name)] = parent_of(int(entry.name))
    return found


def _family(first: int, tree: dict[int, int]) -> set[int]:
    """A process and all below it."""
    members = {first}
    while more := {process for process, parent in tree.items() if parent in members} - members:
        members |= more
    return members


def _stat(process: int) -> list[str]:
    """The fields after the name, which may hold anything: state, parent, …"""
    return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()


def _cpu_seconds(process: int) -> float:
    return sum(map(int, _stat(process)[11:13])) / os.sysconf("SC_CLK_TCK")


def _megabytes(process: int) -> float:
    """Resident, less shared memory such as PostgreSQL's buffers, which are there once."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssFile")) / 1024

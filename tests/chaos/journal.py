"""What the workers say of themselves, read while they write it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Said:
    """One line of the journal."""

    at: float
    """Seconds since the epoch, by the true clock."""
    pid: int
    role: str
    name: str
    event: str
    more: dict[str, Any]

    @property
    def introduced_as(self) -> str:
        """What the relay hears from this process, if it is a mailcaster."""
        return f"{self.name}-{self.pid}"


class JournalReader:
    """All that has been said, and what each process said last."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._rest = b""
        self.said: list[Said] = []
        self.last: dict[int, Said] = {}
        """By process."""

    def read(self) -> list[Said]:
        """What has been said since the last time."""
        lines = (self._rest + self._file.read()).split(b"\n")
        self._rest = lines.pop()
        fresh = []
        for line in lines:
            fields = json.loads(line)
            common = {key: fields.pop(key) for key in ("at", "pid", "role", "name", "event")}
            fresh.append(Said(**common, more=fields))
        self.said += fresh
        self.last.update((each.pid, each) for each in fresh)
        return fresh

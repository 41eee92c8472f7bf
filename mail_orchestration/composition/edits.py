"""Was a campaign's folder edited since it was released? Told from bytes, so that a broken file is an edit too.

What cannot be read says nothing: a folder that is missing on this host, or that this process may not enter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from mail_orchestration.composition.definition import CAMPAIGN_FILE

SETTLES_AFTER = timedelta(seconds=60)
"""Only what has not been touched for this long counts: a save, a checkout or a copy is many writes, and the state
between two of them is nobody's wish."""


class Edit(StrEnum):
    """What a folder says beside what was frozen."""

    NONE = "none"
    UNDER_WAY = "under way"
    """It says something else, and was touched a moment ago."""
    MADE = "made"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Files of a folder that are not as they were frozen."""

    paths: tuple[str, ...]
    """Changed, gone or new, sorted."""
    touched_at: datetime
    """When anything of it was touched last, by this host's clock."""

    def edit(self, now: datetime) -> Edit:
        """What this is, `now` by this host's clock."""
        if not self.paths:
            return Edit.NONE
        return Edit.MADE if now - self.touched_at >= SETTLES_AFTER else Edit.UNDER_WAY


def difference(folder: Path, frozen: Mapping[str, bytes]) -> Difference | None:
    """Compare a folder with what was frozen of it (relative path → SHA-256). None when it cannot be read.

    While `campaign.yaml` is as it was, the files of the campaign are those that were frozen, and templates: others in
    the folder do not matter.
    """
    try:
        if not (folder / CAMPAIGN_FILE).is_file():
            return None
        moments = [folder.stat().st_ctime]
        found: dict[str, bytes] = {}
        for path in _files(folder, frozen):
            facts = path.stat()
            moments += (facts.st_ctime, path.parent.stat().st_ctime)
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None
    differ = {path for path in found.keys() | frozen.keys() if found.get(path) != frozen.get(path)}
    return Difference(paths=tuple(sorted(differ)), touched_at=datetime.fromtimestamp(max(moments), UTC))


def _files(folder: Path, frozen: Mapping[str, bytes]) -> Iterator[Path]:
    paths = {folder / path for path in frozen} | set(folder.rglob("*.j2"))
    return (path for path in paths if path.is_file())

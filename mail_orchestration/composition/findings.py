"""What the check of a campaign finds, and where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from mail_orchestration.composition.definition import CAMPAIGN_FILE


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing found."""

    severity: Severity
    file: str
    line: int | None
    message: str

    @property
    def told(self) -> str:
        """`file:line: message`."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"

    def __str__(self) -> str:
        return f"{self.severity}: {self.told}"


def placed(severity: Severity, detail: str) -> Finding:
    """What `detail` says, which often begins with file:line."""
    found = re.match(
        r"(?P<file>[^\s:]+\.(?:j2|yaml)):(?:(?P<line>\d+):)? ?(?P<message>.*)", detail, re.DOTALL
    )
    if found is None:
        return Finding(severity=severity, file=CAMPAIGN_FILE, line=None, message=detail)
    line = int(found["line"]) if found["line"] else None
    return Finding(severity=severity, file=found["file"], line=line, message=found["message"])


def error(file: str, line: int | None, message: str) -> Finding:
    """Something that would bypass recipients or mail nonsense."""
    return Finding(severity=Severity.ERROR, file=file, line=line, message=message)


def warning(file: str, line: int | None, message: str) -> Finding:
    """Something that somebody should have looked at."""
    return Finding(severity=Severity.WARNING, file=file, line=line, message=message)

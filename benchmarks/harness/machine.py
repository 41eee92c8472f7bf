"""What figures depend upon, without the name of a host or a path."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from mail_orchestration.egress import session


def machine(postgres: str) -> dict[str, str]:
    """Cores, their kind, and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": f"{cores}",
        "processor": _processor(),
        "system": platform.system(),
        "PostgreSQL": postgres,
        "Python": platform.python_version(),
        "way of a message": way_of_a_message(),
    }


def way_of_a_message() -> str:
    """Whether `make compiled` was made: delivery differs by a fifth."""
    return "interpreted" if Path(session.__file__).suffix == ".py" else "compiled"


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    return found[1] if found else platform.machine()

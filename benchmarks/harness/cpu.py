"""CPU time of this process and of those that worked for it."""

from __future__ import annotations

import resource

import psutil


def cpu_seconds() -> float:
    """Of this process, of those below it that have ended, and of the assembly processes that have."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # Assembly's processes are children of multiprocessing's fork server, which outlives them and counts their time.
    servers = [
        each.cpu_times()
        for each in psutil.Process().children()
        if any("forkserver" in argument for argument in each.cmdline())
    ]
    return sum(each.ru_utime + each.ru_stime for each in used) + sum(
        each.user + each.system + each.children_user + each.children_system for each in servers
    )

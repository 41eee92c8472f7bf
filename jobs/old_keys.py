"""Partition keys of long ago, taken away again: Dagster keeps them for ever and its pages grow slower with
each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import dagster as dg

from assets.partitions import CHILD_JOBS, MAIL_JOBS

KEPT = {MAIL_JOBS: 5_000, CHILD_JOBS: 50_000}
"""How many of the newest keys stay: at 100,000 the asset's page takes 0.7 s and the list of keys 1.3 s."""

AT_ONCE = 500
"""Each is deleted in a transaction of its own: the rest is left to the next cleaning."""


def delete_old_keys(instance: dg.DagsterInstance, are_old: Callable[[Sequence[int]], set[int]]) -> int:
    """Delete the lowest keys beyond what is kept, and those of mail jobs of long ago; returns how many.

    `are_old` tells which of these mail jobs are past retention. The data behind the keys is not touched.
    """
    deleted = 0
    for partitions, kept in KEPT.items():
        assert partitions.name is not None
        keys = sorted(instance.get_dynamic_partitions(partitions.name), key=_age)
        beyond = max(0, len(keys) - kept)
        old = set(keys[:beyond])
        # The oldest are looked at: what was kept back among them is few.
        looked_at = [int(key) for key in keys[beyond : beyond + 2 * AT_ONCE] if _age(key)[0]]
        old.update(map(str, are_old(looked_at)))
        for key in [key for key in keys if key in old][:AT_ONCE]:
            instance.delete_dynamic_partition(partitions.name, key)
            deleted += 1
    return deleted


def _age(key: str) -> tuple[bool, int]:
    """Keys that are no number were typed by people and go first; numbers grow with time."""
    return (True, int(key)) if key.isascii() and key.isdigit() else (False, 0)

"""Python's collector of cycles, held back while messages are sent."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NEW_OBJECTS = 20_000
"""Containers more than were dropped, before the youngest are looked at; some megabytes."""

_lock = threading.Lock()
_within = 0
"""Blocks that are under way: shifts may overlap in the threads of one process, and the last one puts things back."""
_usual = gc.get_threshold()


@contextmanager
def rare_collections() -> Iterator[None]:
    """What is there by now is not looked at within the block, and what is made in it less often.

    A message leaves no cycle behind, while the collector walked through what hundreds of messages under way hold: that
    was 5 % of a mailcaster's CPU. Holds for all threads of the process.
    """
    global _within, _usual
    with _lock:
        if not _within:
            _usual = gc.get_threshold()
            gc.freeze()
            gc.set_threshold(NEW_OBJECTS, *_usual[1:])
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if not _within:
                gc.set_threshold(*_usual)
                gc.unfreeze()

"""Files that only their owner reads."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def create_secret_file(file: Path, text: str) -> bool:
    """Make `file` with `text` in it, readable by its owner alone. False, and nothing, when it exists already."""
    if file.exists():
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        # A link fails where a rename would overwrite: the first one wins, whole.
        os.link(fresh, file)
    except FileExistsError:
        return False
    finally:
        Path(fresh).unlink()
    return True

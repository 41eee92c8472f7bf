"""Whether what was compiled is still of the source beside it.

`make compiled` compiles the modules on a message's way to the relay with mypyc; Python then takes the extension beside
a module and not the module. A change of the source would not be noticed, and half of an update would run. That goes for
modules that are not compiled too: where a field of a named tuple stands is fixed in what uses it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

NOTE = "compiled.json"
"""In the package's folder: the digest of every module's source, compiled or not, as it was then."""
NAMED = 5
"""Modules in the error."""


def digests(package: Path) -> dict[str, str]:
    """Of the source of all modules in the folder `package`, as the note holds them: some 300, a few milliseconds."""
    return {
        source.relative_to(package).as_posix(): hashlib.sha256(source.read_bytes()).hexdigest()
        for source in sorted(package.rglob("*.py"))
    }


def require_current(package: Path) -> None:
    """Raises ImportError when a module in the folder `package` has changed since `make compiled`, and names it."""
    try:
        note = json.loads((package / NOTE).read_bytes())
    except FileNotFoundError:
        if any(package.glob("*/*.so")):
            # Cut off, or copied in part: nobody knows of which source they are.
            raise ImportError(
                f"extensions without {NOTE}: `make compiled` again, or `make interpreted` to do without"
            ) from None
        return
    if note["python"] != sys.implementation.cache_tag:
        # Extensions for another Python are not loaded by this one.
        return
    was, now = note["modules"], digests(package)
    changed = sorted(module for module in was.keys() | now.keys() if was.get(module) != now.get(module))
    if changed:
        more = " and others" if len(changed) > NAMED else ""
        raise ImportError(
            f"{', '.join(changed[:NAMED])}{more}: changed since `make compiled`; "
            "make it again, or `make interpreted` to do without"
        )

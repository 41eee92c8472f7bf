"""Whether what was compiled is still of the source beside it.

`make compiled` compiles the modules on a message's way to the relay with mypyc; Python then takes the extension beside
a module and not the module. A change of the source would not be noticed, and half of an update would run.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

NOTE = "compiled.json"
"""In the package's folder: the digest of each module's source, as it was when it was compiled."""


def digest(source: Path) -> str:
    """Of a module's source, as the note holds it."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def require_current(package: Path) -> None:
    """Raises ImportError when a module in the folder `package` has changed since it was compiled, and names it."""
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
    changed = [
        module
        for module, was in note["modules"].items()
        if not (package / module).exists() or digest(package / module) != was
    ]
    if changed:
        raise ImportError(
            f"{', '.join(changed)}: changed since `make compiled`; make it again, or `make interpreted` to do without"
        )

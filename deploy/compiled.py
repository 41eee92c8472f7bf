"""Compile the modules on a message's way to the relay with mypyc, beside their source; `--undo` removes what was made.

    python deploy/compiled.py [--undo]

What is compiled is the same source, and does the same. It takes a minute, a C compiler, Python's headers and the
packages of requirements/dev.txt. `mail_orchestration` refuses to run when a module has changed since.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mail_orchestration"
NOTE = PACKAGE / "compiled.json"
"""See mail_orchestration.kernel.compiled, which cannot be imported while what was compiled is old."""

MODULES = (
    "composition/compression",
    "dispatch/claims",
    "dispatch/held_claim",
    "egress/complaints",
    "egress/connection",
    "egress/connection_shares",
    "egress/content",
    "egress/feed",
    "egress/gate",
    "egress/idle_sessions",
    "egress/lanes",
    "egress/pace",
    "egress/parking",
    "egress/reply",
    "egress/results",
    "egress/session",
    "egress/slots",
    "egress/slots_at_hand",
    "egress/throttle",
    "egress/verdict",
    "egress/wire",
    "feedback/result_rows",
    "feedback/results_log",
    "kernel/attempts",
    "kernel/crash_points",
    "kernel/database_clock",
    "kernel/message_lines",
    "mailcaster/delivery",
    "mailcaster/keeper",
    "mailcaster/message_feed",
    "sending/components",
)
"""What each message passes. No module that defines an error: a compiled class has no docstring, which is an error's
message when none is given."""


def undo() -> None:
    """As it was before."""
    for extension in PACKAGE.rglob("*.so"):
        extension.unlink()
    NOTE.unlink(missing_ok=True)


def compile_modules() -> None:
    """Each module by itself, so that all that is made lies in the package."""
    from mypyc.build import mypycify
    from setuptools import setup

    from mail_orchestration.kernel.compiled import digests

    # Before, and not after: a compiler takes a minute, in which the source may change.
    modules = digests(PACKAGE)
    with tempfile.TemporaryDirectory() as folder:
        extensions = mypycify(
            [f"{PACKAGE.name}/{module}.py" for module in MODULES],
            opt_level="3",
            debug_level="0",
            separate=True,
            target_dir=f"{folder}/c",
        )
        setup(
            name="mail_orchestration",
            packages=["mail_orchestration"],
            ext_modules=extensions,
            script_args=["-q", "build_ext", "--inplace", "--parallel=2", f"--build-temp={folder}/o"],
        )
    if digests(PACKAGE) != modules:
        raise SystemExit("compiled.py: the source has changed meanwhile: once more")
    note = {"python": sys.implementation.cache_tag, "modules": modules}
    NOTE.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def try_out() -> None:
    """Each module in a new interpreter: Python takes the extension, and it can be imported."""
    names = [f"mail_orchestration.{module.replace('/', '.')}" for module in MODULES]
    look = (
        f"import importlib; print(*(importlib.import_module(name).__file__ for name in {names}), sep='\\n')"
    )
    taken = subprocess.run(
        [sys.executable, "-c", look], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    if others := [file for file in taken if not file.endswith(".so")]:
        raise SystemExit(f"compiled.py: Python takes the source nevertheless: {', '.join(others)}")


def what_is_missing() -> str | None:
    """What a compiler would stumble over, in words for whoever can install it."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"no C compiler ({compiler}) is on PATH. On Debian or Ubuntu: apt-get install gcc"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        version = ".".join(map(str, sys.version_info[:2]))
        return f"Python's headers are missing. On Debian or Ubuntu: apt-get install python{version}-dev"
    if importlib.util.find_spec("mypyc") is None:
        return "mypy is not installed: pip install --require-hashes -r requirements/dev.txt"
    return None


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["--undo"]):
        raise SystemExit("usage: python deploy/compiled.py [--undo]")
    if not arguments and (missing := what_is_missing()):
        raise SystemExit(f"compiled.py: {missing}")
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    undo()
    if arguments:
        return
    try:
        compile_modules()
        try_out()
    except BaseException:
        undo()
        raise
    print(f"{len(MODULES)} modules are compiled; `make interpreted` removes what was made")


if __name__ == "__main__":
    main(sys.argv[1:])

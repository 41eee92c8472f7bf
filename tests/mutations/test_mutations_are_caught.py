"""The promises of delivery are broken on purpose, one by one, and the suite must notice each time."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.line_server import ROOT
from tests.mutations.mutants import MutantServer
from tests.mutations.mutations import MUTATIONS

HOW_TO_RUN = ("-q", "-x", "-p", "no:cacheprovider", "-o", "timeout=60")
"""A test that hangs on its mutant gives up long before the test here does, and says where it was."""


@pytest.fixture(scope="module")
def mutants(server_url: str) -> Iterator[MutantServer]:
    """The server, whose mutants work on this session's PostgreSQL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_DATABASE_URL", server_url)
        with MutantServer() as server:
            yield server


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a test needs, in which one file at a time is changed and put back."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("mail_orchestration", "tests"):
        # Modification times are kept, for Python's caches; what `make compiled` made would run instead of a mutant.
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "compiled.json"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize("name", MUTATIONS)
def test_it_fits_one_place(name: str) -> None:
    mutation = MUTATIONS[name]
    text = (ROOT / "mail_orchestration" / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1, f"{mutation.file} has changed: bring the mutation up to date"


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_catches_it_is_there(name: str) -> None:
    file, _, test = MUTATIONS[name].caught_by.split()[0].partition("::")
    assert f"def {test.partition('[')[0]}" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_it_is_caught(name: str, copy: Path, mutants: MutantServer) -> None:
    mutation = MUTATIONS[name]
    file = copy / "mail_orchestration" / mutation.file
    text, before = file.read_text(encoding="utf-8"), file.stat()
    assert text.count(mutation.old) == 1, f"{mutation.file} has changed: bring the mutation up to date"
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        verdict = mutants.run(copy, [*HOW_TO_RUN, *mutation.caught_by.split()])
    finally:
        file.write_text(text, encoding="utf-8")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    # A failed assertion, not a mutant that cannot be imported or set up, nor one that never comes to an end.
    assert verdict.exit_code == pytest.ExitCode.TESTS_FAILED, verdict.said
    assert re.search(r"^FAILED ", verdict.said, re.MULTILINE), verdict.said
    assert not re.search(r"^ERROR ", verdict.said, re.MULTILINE), verdict.said
    assert "from pytest-timeout" not in verdict.said, verdict.said

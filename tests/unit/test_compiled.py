"""What `make compiled` made is of the source beside it, or nothing runs."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mail_orchestration.kernel.compiled import NOTE, digests, require_current
from tests.unit.docs_pages import ROOT

PACKAGE = ROOT / "mail_orchestration"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of two modules, one in a folder, both as they were when something was compiled."""
    (tmp_path / "stage").mkdir()
    for name in ("sent.py", "stage/kept.py"):
        (tmp_path / name).write_text(f"# {name}\n", encoding="utf-8")
    note = {"python": sys.implementation.cache_tag, "modules": digests(tmp_path)}
    (tmp_path / NOTE).write_text(json.dumps(note), encoding="utf-8")
    return tmp_path


def test_what_is_not_compiled_runs(tmp_path: Path) -> None:
    require_current(tmp_path)


def test_extensions_of_nobody_knows_what_are_refused(package: Path) -> None:
    (package / "stage" / "sent.so").touch()
    require_current(package)
    (package / NOTE).unlink()
    with pytest.raises(ImportError, match=r"^extensions without compiled\.json"):
        require_current(package)


def test_what_was_compiled_runs(package: Path) -> None:
    require_current(package)


@pytest.mark.parametrize(
    "change", [lambda module: module.write_text("# later\n"), lambda module: module.unlink()]
)
def test_a_module_that_was_changed_or_removed_since_is_named(
    package: Path, change: Callable[[Path], object]
) -> None:
    change(package / "sent.py")
    with pytest.raises(ImportError, match=r"^sent\.py: changed since `make compiled`"):
        require_current(package)


def test_a_module_that_came_since_is_named(package: Path) -> None:
    (package / "stage" / "late.py").touch()
    with pytest.raises(ImportError, match=r"^stage/late\.py: changed since `make compiled`"):
        require_current(package)


def test_extensions_for_another_python_do_not_matter(package: Path) -> None:
    note = json.loads((package / NOTE).read_text(encoding="utf-8"))
    (package / NOTE).write_text(json.dumps(note | {"python": "cpython-27"}), encoding="utf-8")
    (package / "sent.py").write_text("# later\n", encoding="utf-8")
    require_current(package)


def compiled_modules() -> list[Path]:
    script = (ROOT / "deploy" / "compiled.py").read_text(encoding="utf-8")
    return [PACKAGE / f"{module}.py" for module in re.findall(r'^    "([a-z_/]+)",$', script, re.MULTILINE)]


def test_modules_that_are_compiled_define_no_error() -> None:
    """A compiled class has no docstring, and that of an error is its message."""
    modules = compiled_modules()
    assert len(modules) >= 30
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base) for base in node.bases]
                wrong = [
                    base for base in bases if re.search(r"(Error|Exception|Bad\w+|Unavailable|Lost)$", base)
                ]
                assert not wrong, f"{module}: {node.name}"


def test_modules_that_are_compiled_await_nothing_while_they_handle_an_error() -> None:
    """Compiled coroutines share what error is handled: two that wait in a handler at once mix theirs up.

    Then each error holds those before it, thousands at last. A `finally` that waits is looked through one by one.
    """
    waiting = set()
    for module in compiled_modules():
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Try):
                for kind, part in (("except", node.handlers), ("finally", node.finalbody)):
                    waits = (ast.Await, ast.AsyncWith, ast.AsyncFor)
                    if any(isinstance(inner, waits) for each in part for inner in ast.walk(each)):
                        waiting.add((kind, module.relative_to(PACKAGE).as_posix()))
    assert waiting <= {("finally", "mailcaster/delivery.py")}

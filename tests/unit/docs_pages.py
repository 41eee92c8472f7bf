"""The pages of the documentation, and what stands in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *DOCS.rglob("*.md"),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "examples/README.md",
    ]
)

FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def read(page: str | Path) -> str:
    """One of the site."""
    return (DOCS / page).read_text(encoding="utf-8")


def sections(text: str, level: str) -> dict[str, str]:
    """Text under each heading of this level, up to the next one of it."""
    parts = re.split(rf"^{level} +(.+?) *$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of a page's tables, without their heads."""
    found = [
        [cell.strip() for cell in line.strip()[1:-1].split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    marks = [number for number, cells in enumerate(found) if set("".join(cells)) <= set("-:| ")]
    heads = {number for mark in marks for number in (mark, mark - 1)}
    return [cells for number, cells in enumerate(found) if number not in heads]

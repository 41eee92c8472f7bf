"""Links of the documentation lead somewhere, each page is in the navigation, and none asks another server."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest

from tests.unit.docs_pages import DOCS, FENCE, PAGES, ROOT

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def slug(heading: str) -> str:
    """The anchor that Python-Markdown makes of a heading."""
    text = unicodedata.normalize("NFKD", heading.replace("`", "")).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"there is no {target}"
        if DOCS in page.parents:
            assert DOCS in file.parents, f"{target} is not part of the site"
        if anchor:
            headings = _HEADING.findall(FENCE.sub("", file.read_text(encoding="utf-8")))
            assert anchor in {slug(heading) for heading in headings}, f"there is no heading for {target}"


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"\S+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert named == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_the_site_asks_no_other_server() -> None:
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in configuration
    # With it the theme loads Mermaid from a CDN.
    assert "custom_fences" not in configuration
    for page in DOCS.rglob("*.md"):
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(script|img|iframe)\b", re.sub(r"`[^`]*`", "", text)), (
            page
        )

"""Whether a body has anything to read or to look at (spec 2.8)."""

from __future__ import annotations

import re

_VISIBLE = re.compile(
    r">(?:\s|&nbsp;|&#160;|&zwnj;|&#8204;)*[^\s<&]|>\s*&(?!nbsp;|#160;|zwnj;|#8204;)|<img\b", re.I
)
_HIDDEN = re.compile(r"<(head|style|script|title)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)


def is_empty(html: str | None, text: str | None) -> bool:
    """Whether neither part, as far as there is one, shows anything: an image is something, white space is not."""
    if text and not text.isspace():
        return False
    return html is None or not _VISIBLE.search(">" + _HIDDEN.sub("", html))

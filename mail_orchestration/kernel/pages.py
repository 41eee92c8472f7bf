"""A page that becomes a message's body: what to ask for, and what came (spec 2.3).

Composition says what to ask for and takes what came; egress asks. Neither knows the other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """One recipient's page. The cookie goes to this URL's origin only and is shared with nobody."""

    url: str
    cookie_name: str
    cookie_value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """An HTML page as it came, decoded."""

    url: str
    """Where it came from in the end, after redirects."""
    html: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PageUnavailable:
    """Why there is no page. Names no recipient."""

    reason: str

"""ONTO THE WIRE: assembled messages leave through SMTP relays, and each gets its result.

Read `delivery.deliver` first, then `connection` (the hot loop and its promise), `session` (what a lost
connection means in which phase), `verdict` (what a reply means). Knows no database: a story brings source and
sink (`ports`).
"""

from __future__ import annotations

"""An installation whose relay drops the connection after the final dot, for those whose addresses ask it to."""

from __future__ import annotations

from functools import partial

from tests.scenarios.scripted_site import scripted_site

ONCE = [f"once-drop-at-dot-{n}" for n in range(6)]
ALWAYS = [f"drop-at-dot-{n}" for n in range(3)]
CONNECTIONS = 5

site_of = partial(
    scripted_site,
    wait_s=2.0,
    mailcasters=[{"name": "m1", "min_job_size": 40, "max_job_size": 1000, "connections": CONNECTIONS}],
)


def ordinary(count: int) -> list[str]:
    """Local parts of so many whose messages are accepted."""
    return [f"r{n}" for n in range(count)]

"""When things are done: sensors look for work, schedules keep times; each can be switched off in Dagster's
UI.

`definitions` is the one place where Dagster is told of everything.
"""

from __future__ import annotations

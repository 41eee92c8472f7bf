"""What can be started: by a sensor, by a schedule, or by hand in the launchpad.

Every job runs in one process: a run worker that is killed takes its step with it, which under a process
for each step would go on sending while Dagster calls the run failed.
"""

from __future__ import annotations

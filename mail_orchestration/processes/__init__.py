"""The processes of the global queue (spec 6.1): what they are, how they are seen, switched and run.

table            what they are, in one place
dagster_server   the questions to Dagster's webserver
watching         each one's last run, its status, and when it looks next
operating        switch one off and on, run one now

They are Dagster's sensors, schedules and jobs. All that is done here goes through its webserver, so that it is seen
there as well.
"""

from mail_orchestration.processes.dagster_server import DagsterRefused, DagsterServer, DagsterUnavailable
from mail_orchestration.processes.operating import Asked, Started, run_now, switch
from mail_orchestration.processes.table import PROCESSES, Process, process
from mail_orchestration.processes.watching import Overview, ProcessStatus, overview

__all__ = [
    "PROCESSES",
    "Asked",
    "DagsterRefused",
    "DagsterServer",
    "DagsterUnavailable",
    "Overview",
    "Process",
    "ProcessStatus",
    "Started",
    "overview",
    "process",
    "run_now",
    "switch",
]

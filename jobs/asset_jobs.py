"""The processes whose work is an asset: import, Assemble, Queue for delivery, delivery by hand, report,
close of the day.

Assets are selected by `AssetSelection` and not by a string: the parser of those costs every run a tenth of
a second.
"""

from __future__ import annotations

import dagster as dg

from assets import shown
from jobs.tags import PROCESS

import_audiences = dg.define_asset_job(
    "import_audiences",
    selection=dg.AssetSelection.assets("audience_members"),
    description="Read the audiences anew from their sources: all, or those that are named.",
    executor_def=dg.in_process_executor,
    tags={PROCESS: "import_audiences"},
    owners=shown.OWNERS,
)

assemble = dg.define_asset_job(
    "assemble",
    selection=dg.AssetSelection.assets("recipients", "assembled_messages"),
    description=(
        "Assemble: choose the recipients of one release, and compose and store all of its messages. "
        "Nothing is sent. Cut off, it goes on where it was when it runs again."
    ),
    executor_def=dg.in_process_executor,
    tags={PROCESS: "assemble"},
    owners=shown.OWNERS,
)

queue_for_delivery = dg.define_asset_job(
    "queue_for_delivery",
    selection=dg.AssetSelection.assets("child_jobs"),
    description="Queue for delivery: put an assembled mail job into the global queue for the mailcasters.",
    executor_def=dg.in_process_executor,
    tags={PROCESS: "queue_for_delivery"},
    owners=shown.OWNERS,
)

deliver_child_jobs = dg.define_asset_job(
    "deliver_child_jobs",
    selection=dg.AssetSelection.assets("delivery_results"),
    description=(
        "Deliver chosen children or small mail jobs by hand, now and in one run. Those that have ended are "
        "reported again, and those on which a mailcaster works are left to it: nothing is sent twice."
    ),
    executor_def=dg.in_process_executor,
    tags={PROCESS: "deliver_child_jobs"},
    owners=shown.OWNERS,
)

report = dg.define_asset_job(
    "report",
    selection=dg.AssetSelection.assets("mail_job_report"),
    description="Write the report of one release: what became of every message, with tables and a plot.",
    executor_def=dg.in_process_executor,
    tags={PROCESS: "report"},
    owners=shown.OWNERS,
)

close_of_the_day = dg.define_asset_job(
    "close_of_the_day",
    selection=dg.AssetSelection.assets("frequency_counters"),
    description=(
        "Close the days that are over: note how many mails each contact got, count anew for the frequency policy, "
        "send what was held and is allowed by now, and remove what has waited too long. Run twice, late or after "
        "missing nights it gives the same figures."
    ),
    executor_def=dg.in_process_executor,
    tags={PROCESS: "close_of_the_day"},
    owners=shown.OWNERS,
)

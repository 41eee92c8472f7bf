"""What is done at set times: the nightly close of the day, and the cleaning of the delivery queue."""

from __future__ import annotations

import dagster as dg

from jobs.asset_jobs import close_of_the_day
from jobs.clean_delivery_queue import clean_delivery_queue
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.settings import load_settings
from mail_orchestration.processes import process

CLOSE_OF_THE_DAY, CLEAN_DELIVERY_QUEUE = map(process, ("close_of_the_day", "clean_delivery_queue"))


def installation_time_zone() -> str:
    """The installation's time zone, in which its nights are; UTC as long as there are no settings to be
    read.

    Definitions must load without settings, so that Dagster's UI can come up and its sensors can say what
    is missing.
    """
    try:
        return load_settings().time_zone
    except BadSettings:
        return "UTC"


close_of_the_day_schedule = dg.ScheduleDefinition(
    name=CLOSE_OF_THE_DAY.name,
    job=close_of_the_day,
    # A quarter past midnight: what was sent just before it has its result by then. Were it late, the next
    # night has it.
    cron_schedule="15 0 * * *",
    execution_timezone=installation_time_zone(),
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description=CLOSE_OF_THE_DAY.description,
)

clean_delivery_queue_schedule = dg.ScheduleDefinition(
    name=CLEAN_DELIVERY_QUEUE.name,
    job=clean_delivery_queue,
    cron_schedule="*/10 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description=CLEAN_DELIVERY_QUEUE.description,
)

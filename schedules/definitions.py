"""The one `Definitions`: all that Dagster knows of mail_orchestration. `workspace.yaml` points here."""

from __future__ import annotations

import dagster as dg

from assets.assembled_messages import assembled_messages
from assets.audience_members import audience_members
from assets.child_jobs import child_jobs, global_queue
from assets.delivery_results import delivery_results
from assets.frequency_counters import frequency_counters
from assets.mail_job_report import mail_job_report
from assets.mail_system import MailSystem
from assets.recipients import recipients
from jobs import asset_jobs
from jobs.change_campaign import change_campaign
from jobs.clean_delivery_queue import clean_delivery_queue
from jobs.mailcaster import mailcaster
from jobs.operate import restart_mail_jobs, stop_mail_jobs
from jobs.release_campaign import release_campaign
from jobs.single_mailer import single_mailer
from schedules.global_queue_sensor import global_queue_sensor
from schedules.partition_key_sensor import partition_key_sensor
from schedules.release_sensors import assemble_sensor, queue_for_delivery_sensor, report_sensor
from schedules.times import clean_delivery_queue_schedule, close_of_the_day_schedule

defs = dg.Definitions(
    assets=[
        audience_members,
        recipients,
        assembled_messages,
        child_jobs,
        global_queue,
        delivery_results,
        mail_job_report,
        frequency_counters,
    ],
    jobs=[
        asset_jobs.import_audiences,
        asset_jobs.assemble,
        asset_jobs.queue_for_delivery,
        asset_jobs.deliver_child_jobs,
        asset_jobs.report,
        asset_jobs.close_of_the_day,
        release_campaign,
        change_campaign,
        stop_mail_jobs,
        restart_mail_jobs,
        mailcaster,
        single_mailer,
        clean_delivery_queue,
    ],
    sensors=[
        assemble_sensor,
        queue_for_delivery_sensor,
        global_queue_sensor,
        report_sensor,
        partition_key_sensor,
    ],
    schedules=[close_of_the_day_schedule, clean_delivery_queue_schedule],
    resources={"mail": MailSystem()},
    # For what is materialised by hand as well: see jobs/__init__.py.
    executor=dg.in_process_executor,
)

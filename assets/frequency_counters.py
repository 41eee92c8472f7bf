"""How often everybody was written to: the days are closed at night, and the counters follow."""

import dagster as dg

from assets import shown
from assets.delivery_results import DELIVERY_RESULTS
from assets.failures import told_to_operators
from assets.mail_system import MailSystem
from assets.partitions import NO_FAN_OUT
from mail_orchestration.kernel.clock import utc_now
from mail_orchestration.maintenance import close_days, frequency_summary


@dg.asset(
    deps=[dg.AssetDep(DELIVERY_RESULTS, partition_mapping=NO_FAN_OUT)],
    group_name="feedback",
    kinds={"postgres"},
    owners=shown.OWNERS,
    tags={"stage": "feedback"},
    metadata={
        shown.COLUMN_SCHEMA: shown.columns(
            day=("date", "A day of the installation's time zone that is over."),
            contact_id=("bigint", "The contact."),
            mails=("integer", "How many mails for this contact relays accepted on that day."),
        )
    },
)
def frequency_counters(
    context: dg.AssetExecutionContext, mail: dg.ResourceParam[MailSystem]
) -> shown.Materialized:
    """How many mails each contact got, by day, and what that adds up to in 1, 7, 30 and 90 days.

    Materialise it to close every day that is over and not closed yet; the schedule close_of_the_day does
    so each night. Done twice, late, or after missing nights it gives the same figures. A mail of day D
    counts through D + days.
    """
    with told_to_operators(), mail.opened("close of the day", context.run.run_id) as installation:
        now = utc_now()
        closed = close_days(installation, now=now)
        windows = frequency_summary(installation, now=now)
    context.log.info("%d days closed", len(closed))
    return dg.MaterializeResult(
        metadata={
            shown.ROW_COUNT: max((window.contacts for window in windows), default=0),
            "days_closed_now": shown.table(
                ("day", "mails", "contacts"),
                ((day.day.isoformat(), day.mails, day.contacts) for day in closed),
                nothing="Every day that is over had been closed before.",
            ),
            "windows": shown.table(
                ("days", "contacts written to", "mails", "most for one contact"),
                ((window.days, window.contacts, window.mails, window.most) for window in windows),
            ),
            "contacts_by_mails": shown.table(
                ("days", "mails", "contacts"),
                (
                    (window.days, mails, contacts)
                    for window in windows
                    for mails, contacts in window.histogram.items()
                ),
                nothing="Nobody has been written to on a day that is closed.",
            ),
        }
    )

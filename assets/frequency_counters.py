"""How often everybody was written to: the days are closed at night, the counters follow, and what was held may go."""

import dagster as dg

from assets import shown
from assets.checks import check_counters_equal_the_log, counters_equal_the_log
from assets.delivery_results import DELIVERY_RESULTS
from assets.failures import told_to_operators
from assets.mail_system import MailSystem
from assets.partitions import MAIL_JOBS, NO_FAN_OUT, add_keys, partition_key_of
from mail_orchestration.dispatch.held_mails import HeldMailEnding
from mail_orchestration.feedback.plots import held_plot
from mail_orchestration.frequency.queue import Rescanned, rescan
from mail_orchestration.frequency.showing import Overview, overview
from mail_orchestration.maintenance import frequency_summary


@dg.asset(
    deps=[dg.AssetDep(DELIVERY_RESULTS, partition_mapping=NO_FAN_OUT)],
    check_specs=[counters_equal_the_log("frequency_counters")],
    group_name="feedback",
    kinds={"postgres", "matplotlib"},
    owners=shown.OWNERS,
    tags={"stage": "feedback"},
    metadata={
        shown.COLUMN_SCHEMA: shown.columns(
            contact_id=("bigint", "The contact."),
            mails_1=("integer", "Mails of closed days that count for the first rule of the policy."),
            mails_2=("integer", "The same for the second rule, if there is one."),
            mails_3=("integer", "The same for the third."),
            mails_4=("integer", "The same for the fourth."),
            places=("integer", "Mails on their way, and those accepted on a day that is not closed."),
        )
    },
)
def frequency_counters(
    context: dg.AssetExecutionContext, mail: dg.ResourceParam[MailSystem]
) -> shown.Materialized:
    """How often each contact was written to, who is at a limit of the frequency policy, and what waits because of it.

    Materialise it to close every day that is over, count anew, and send what was held and is allowed by now; the
    schedule close_of_the_day does so each night. Done twice, late, or after missing nights it comes to the same. A mail
    of day D counts through D + days, in a calendar window one day less. What is let go becomes mail jobs, which the
    sensors assemble, queue and have delivered like any other.
    """
    with told_to_operators(), mail.opened("close of the day", context.run.run_id) as installation:
        done = rescan(installation)
        found = overview(installation)
        windows = frequency_summary(installation, now=installation.now())
        check = check_counters_equal_the_log(installation)
    add_keys(context.instance, MAIL_JOBS, [each.mail_job_id for each in done.released.later])
    context.log.info(
        "%d days closed, %d held mails let go, %d still held",
        len(done.upkeep.closed),
        done.released.mails,
        done.released.waiting,
    )
    if found.shown.difference:
        context.log.warning("%s", found.shown.difference)
    return dg.MaterializeResult(
        metadata={
            shown.ROW_COUNT: max(
                0 if found.contacts is None else max(each.contacts for each in found.contacts.rules),
                max((window.contacts for window in windows), default=0),
            ),
            **_policy_metadata(found),
            **_queue_metadata(found, done),
            "days_closed_now": shown.table(
                ("day", "mails", "contacts"),
                ((day.day.isoformat(), day.mails, day.contacts) for day in done.upkeep.closed),
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
        },
        check_results=[check],
    )


def _policy_metadata(found: Overview) -> shown.Metadata:
    in_force = found.shown.in_force
    told: shown.Metadata = {"policy": found.shown.in_words or "none holds"}
    if found.shown.difference:
        told["settings_differ"] = found.shown.difference
    if in_force is not None and found.contacts is not None:
        told["counted_for"] = in_force.counted_for.isoformat()
        told["contacts_at_their_limit"] = shown.table(
            ("rule", "contacts", "share"),
            (
                (str(each.rule), each.at_limit, shown.percentage(each.at_limit, each.contacts))
                for each in found.contacts.rules
            ),
        )
    return told


def _queue_metadata(found: Overview, done: Rescanned) -> shown.Metadata:
    """What waits and what came of it; nothing where no policy ever held anything."""
    released = done.released
    if found.shown.in_force is None and not any((found.held, found.ended, released.later)):
        return {}
    title = "the frequency queue"
    return {
        "held": found.shown.waiting,
        "let_go_now": released.mails,
        "expired_now": released.ended.get(HeldMailEnding.EXPIRED, 0),
        "held_over_time": shown.plot(held_plot(found.days, title), title),
        "held_by_campaign": shown.table(
            ("campaign", "held by", "mails", "since", "first expires"),
            (
                (each.campaign, str(each.held_by), each.mails, each.held_since, each.first_expires_at)
                for each in found.held
            ),
            nothing="Nothing waits in the frequency queue.",
        ),
        "ended_in_a_week": shown.table(
            ("wait ended as", "mails"),
            ((ending.value.replace("_", " "), mails) for ending, mails in found.ended.items()),
            nothing="No wait ended in the last seven days.",
        ),
        "sent_by": shown.table(
            ("mail job", "campaign", "held in", "mails"),
            (
                (
                    partition_key_of(each.mail_job_id),
                    each.campaign,
                    partition_key_of(each.held_from),
                    each.mails,
                )
                for each in released.later
            ),
            nothing="No held mail was let go by this run.",
        ),
    }

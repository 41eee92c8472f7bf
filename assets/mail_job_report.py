"""WHAT CAME BACK: the report of one release."""

import dagster as dg

from assets import shown
from assets.checks import books_balance, books_table, check_books_balance
from assets.delivery_results import DELIVERY_RESULTS
from assets.failures import told_to_operators
from assets.mail_system import MailSystem
from assets.partitions import MAIL_JOBS, NO_FAN_OUT, mail_job_id_of, partition_key_of
from mail_orchestration.broadcast import report_release
from mail_orchestration.feedback.plots import timeline_plot
from mail_orchestration.feedback.reports import MailJobReport


@dg.asset(
    partitions_def=MAIL_JOBS,
    deps=[dg.AssetDep(DELIVERY_RESULTS, partition_mapping=NO_FAN_OUT)],
    check_specs=[books_balance("mail_job_report")],
    group_name="feedback",
    kinds={"postgres", "matplotlib"},
    owners=shown.OWNERS,
    tags={"stage": "feedback"},
    metadata={
        shown.COLUMN_SCHEMA: shown.columns(
            mail_job_id=("bigint", "The child, or the small mail job itself."),
            state=("mail_job_state", "How it ended, or where it stands."),
            mailcaster=("text", "Who worked on it."),
            accepted=("bigint", "Messages that a relay has taken responsibility for."),
            deferred=("bigint", "Messages that the same relay may take later."),
            rejected=("bigint", "Messages that the relay will never take for this recipient."),
            uncertain=("bigint", "Messages whose connection was lost between the final dot and its reply."),
            results_per_second=("double", "From its first result to its last."),
        )
    },
)
def mail_job_report(
    context: dg.AssetExecutionContext, mail: dg.ResourceParam[MailSystem]
) -> shown.Materialized:
    """What became of every message of one release: the books, its mail jobs, domains, replies and the
    course of time.

    It is written by itself when the mail job has ended. Materialise it at any time before to see how far
    delivery is; it only counts, and every figure is counted from the rows anew.
    """
    with told_to_operators(), mail.opened("report", context.run.run_id) as installation:
        release_id = mail_job_id_of(context.partition_key)
        report = report_release(installation, release_id, now=installation.now())
        check = check_books_balance(installation, release_id)
    return dg.MaterializeResult(metadata=report_metadata(report), check_results=[check])


def report_metadata(report: MailJobReport) -> shown.Metadata:
    """The report as Dagster shows it."""
    account = report.books
    title = f"mail job {report.release_id}, {report.campaign}"
    return {
        shown.ROW_COUNT: account.recipients,
        "campaign": report.campaign,
        "state": f"{report.state.value} ({report.reason})" if report.reason else report.state.value,
        "accepted": account.accepted,
        "accepted_share": shown.percentage(account.accepted, account.assembled),
        "messages_per_second": round(report.messages_per_second or 0.0, 1),
        "course_of_time": shown.plot(timeline_plot(report.timeline, report.bucket_seconds, title), title),
        "books": books_table(account),
        "mail_jobs": shown.table(
            (
                "mail job",
                "recovers",
                "state",
                "mailcaster",
                "first",
                "last",
                "accepted",
                "deferred",
                "rejected",
                "uncertain",
                "seconds",
                "per second",
            ),
            (
                (
                    str(line.mail_job_id),
                    str(line.recovers or ""),
                    line.state.value,
                    line.mailcaster,
                    line.first_message,
                    line.last_message,
                    line.accepted,
                    line.deferred,
                    line.rejected,
                    line.uncertain,
                    line.seconds,
                    line.results_per_second,
                )
                for line in report.mail_jobs
            ),
            nothing="Nothing has been sent yet.",
        ),
        "domains": shown.table(
            ("domain", "messages", "accepted", "deferred", "rejected", "uncertain"),
            (
                (line.domain, line.messages, line.accepted, line.deferred, line.rejected, line.uncertain)
                for line in report.domains
            ),
            nothing="No message.",
        ),
        "replies": shown.table(
            ("outcome", "code", "enhanced", "results", "sample"),
            (
                (
                    line.outcome.value,
                    str(line.reply_code or ""),
                    line.enhanced_code,
                    line.results,
                    line.sample,
                )
                for line in report.replies
            ),
            nothing="No relay has answered yet.",
        ),
        "bypassed_by_reason": shown.counts(
            account.bypassed, of=account.recipients, word="reason", nothing="Nobody is bypassed."
        ),
        "kept_by_the_frequency_policy": shown.kept_by_the_policy(account),
        **_held_mails_of(report),
    }


def _held_mails_of(report: MailJobReport) -> shown.Metadata:
    """Where what was held of it is sent, or whose held mails it sends; nothing for most mail jobs."""
    told: shown.Metadata = {}
    if report.later_mail_jobs:
        told["later_mail_jobs"] = shown.table(
            ("mail job", "released", "state", "mails"),
            (
                (
                    partition_key_of(each.mail_job_id),
                    each.released_at,
                    each.state.value,
                    each.mails,
                )
                for each in report.later_mail_jobs
            ),
        )
    if report.held_from is not None:
        told["sends_held_mails_of"] = shown.partition_link(
            "mail_job_report", partition_key_of(report.held_from)
        )
    return told

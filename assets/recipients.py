"""WHO of one release: dedup, verify, filter."""

import dagster as dg

from assets import shown
from assets.audience_members import audience_members
from assets.checks import check_no_contact_twice, no_contact_twice
from assets.failures import told_to_operators
from assets.mail_system import MailSystem
from assets.partitions import MAIL_JOBS, mail_job_id_of
from mail_orchestration.broadcast import release, release_again, resolve_release
from mail_orchestration.campaigns import stop_if_edited
from mail_orchestration.feedback.books import books
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.states import MailJobState


@dg.asset(
    partitions_def=MAIL_JOBS,
    deps=[audience_members],
    check_specs=[no_contact_twice("recipients")],
    group_name="audience",
    kinds={"postgres"},
    owners=shown.OWNERS,
    tags={"stage": "audience"},
    metadata={
        shown.COLUMN_SCHEMA: shown.columns(
            release_id=("bigint", "The mail job."),
            recipient_no=("integer", "1, 2, 3 … within the mail job."),
            audience_id=(
                "integer",
                "The audience whose details are used: the first named that has the contact.",
            ),
            contact_id=("bigint", "The contact. Once for each mail job."),
            bypass_reason=(
                "text",
                "Why the recipient is skipped by all later stages; empty for those who get mail.",
            ),
        )
    },
)
def recipients(context: dg.AssetExecutionContext, mail: dg.ResourceParam[MailSystem]) -> shown.Materialized:
    """The recipients of one release: its audiences without the duplicates, each recipient checked and
    filtered.

    Somebody who is suppressed, in an excluded audience, or without what the template needs stays listed
    with a bypass reason. Dedup happens once for each release and is all or nothing. Materialising it again
    tells the same figures and does nothing; on an INTERRUPTED mail job it releases it again, as the first
    dedup was cut off.
    """
    with told_to_operators(), mail.opened("recipients", context.run.run_id) as installation:
        release_id = mail_job_id_of(context.partition_key)
        work_done = resolve_once(installation, release_id)
        context.log.info("mail job %d: %s", release_id, work_done)
        told = release(installation, release_id)
        with installation.database.begin() as connection:
            account = books(connection, release_id)
        return dg.MaterializeResult(
            metadata={
                shown.ROW_COUNT: account.recipients,
                "campaign": told.campaign,
                "state": told.state.value,
                "reason": told.reason or "none",
                "this_run": work_done,
                "audience_rows": account.audience_rows,
                "duplicates": account.duplicates,
                "bypassed": account.bypassed_count,
                "bypassed_by_reason": shown.counts(
                    account.bypassed, of=account.recipients, word="reason", nothing="Nobody is bypassed."
                ),
                "kept_by_the_frequency_policy": shown.kept_by_the_policy(account),
            },
            check_results=[check_no_contact_twice(installation, release_id)],
        )


def resolve_once(installation: Installation, release_id: int) -> str:
    """Dedup the release if that is still to be done, and tell which it was."""
    stop_if_edited(installation, release_id, now=installation.now())
    found = release(installation, release_id)
    if found.state is MailJobState.STOPPED:
        return "nothing: the mail job is STOPPED"
    if found.resolved_at is not None:
        return "nothing: dedup was done before, and is done once for each release"
    again = found.state is MailJobState.INTERRUPTED
    if again:
        release_again(installation, release_id, now=installation.now())
    resolve_release(installation, release_id, now=installation.now())
    return "released again, as dedup had been cut off, and deduplicated" if again else "deduplicated"

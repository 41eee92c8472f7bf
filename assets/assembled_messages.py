"""WHAT each recipient gets: every message, complete, before the first one leaves."""

import dagster as dg

from assets import shown
from assets.checks import (
    ASSEMBLY_FAILURES,
    assembly_failures,
    books_balance,
    check_assembly_failures,
    check_books_balance,
)
from assets.failures import told_to_operators
from assets.mail_system import MailSystem
from assets.partitions import MAIL_JOBS, mail_job_id_of
from assets.recipients import recipients
from mail_orchestration.broadcast import AssemblySummary, assemble_release, release
from mail_orchestration.campaigns import stop_if_edited
from mail_orchestration.feedback.books import books
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import AssemblyFailed
from mail_orchestration.kernel.states import MailJobState


@dg.asset(
    partitions_def=MAIL_JOBS,
    deps=[recipients],
    check_specs=[assembly_failures("assembled_messages"), books_balance("assembled_messages")],
    group_name="composition",
    kinds={"postgres", "jinja"},
    owners=shown.OWNERS,
    tags={"stage": "composition"},
    metadata={
        shown.COLUMN_SCHEMA: shown.columns(
            release_id=("bigint", "The mail job."),
            message_no=("integer", "1, 2, 3 … without gaps among the messages of the mail job."),
            recipient_no=("integer", "The recipient, of the asset recipients."),
            contact_id=("bigint", "The contact."),
            size=("integer", "Octets of the message as it goes to the relay."),
            address=("text", "The envelope's recipient. Never shown in Dagster."),
            place_in_block=("smallint", "Where the message is in its block of message_block, from 0 on."),
        )
    },
)
def assembled_messages(
    context: dg.AssetExecutionContext, mail: dg.ResourceParam[MailSystem]
) -> shown.Materialized:
    """Every message of one release, assembled and stored byte for byte as it will be sent.

    A template fault on the last recipient is found here, before the first mail leaves. A message that
    cannot be assembled is bypassed with its reason; when too many fail, the mail job is FAILED and nothing
    is sent. Assembly that was cut off goes on where it stopped. Materialising it again tells the same
    figures and assembles nothing twice.
    """
    with told_to_operators(), mail.opened("assembly", context.run.run_id) as installation:
        release_id = mail_job_id_of(context.partition_key)
        summary = assemble_once(installation, release_id, context)
        told = release(installation, release_id)
        with installation.database.begin() as connection:
            account = books(connection, release_id)
        this_run: shown.Metadata = {"this_run": "nothing: all messages were assembled before"}
        if told.state is MailJobState.STOPPED:
            this_run = {"this_run": f"nothing: the mail job is STOPPED ({told.reason})"}
        elif summary is not None:
            this_run = {
                "this_run": "assembled",
                "seconds": round(summary.seconds, 1),
                "messages_per_second": shown.rate(summary.messages, summary.seconds),
                "composed_bytes": summary.composed_bytes,
                "stored_bytes": summary.stored_bytes,
            }
        return dg.MaterializeResult(
            metadata={
                shown.ROW_COUNT: told.message_count,
                "campaign": told.campaign,
                "state": told.state.value,
                **this_run,
                "bypassed_by_reason": shown.counts(
                    account.bypassed, of=account.recipients, word="reason", nothing="Nobody is bypassed."
                ),
                "kept_by_the_frequency_policy": shown.kept_by_the_policy(account),
            },
            check_results=[
                check_assembly_failures(installation, release_id),
                check_books_balance(installation, release_id),
            ],
        )


def assemble_once(
    installation: Installation, release_id: int, context: dg.AssetExecutionContext
) -> AssemblySummary | None:
    """Assemble what is still to be assembled; None when nothing is."""
    stop_if_edited(installation, release_id, now=installation.now())
    found = release(installation, release_id)
    if found.assembled_at is not None or found.state is MailJobState.STOPPED:
        return None
    tenth = 0

    def progress(done: int, total: int) -> None:
        nonlocal tenth
        if total and 10 * done // total > tenth:
            tenth = 10 * done // total
            context.log.info("mail job %d: %d of %d recipients assembled", release_id, done, total)

    try:
        return assemble_release(installation, release_id, now=installation.now(), progress=progress)
    except AssemblyFailed:
        # The check says so too, although the asset is not materialised: it is what an operator looks at.
        failed = check_assembly_failures(installation, release_id)
        context.log_event(
            dg.AssetCheckEvaluation(
                asset_key=context.asset_key,
                check_name=ASSEMBLY_FAILURES,
                passed=False,
                severity=dg.AssetCheckSeverity.ERROR,
                description=failed.description,
                metadata=failed.metadata,
                blocking=True,
            )
        )
        raise

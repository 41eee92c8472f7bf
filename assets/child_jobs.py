"""Queue for delivery: the mail job enters the global queue, where mailcasters divide it into children."""

import dagster as dg

from assets import shown
from assets.assembled_messages import assembled_messages
from assets.failures import told_to_operators
from assets.mail_system import MailSystem
from assets.partitions import CHILD_JOBS, MAIL_JOBS, add_keys, mail_job_id_of
from mail_orchestration.broadcast import queue_release, release
from mail_orchestration.dispatch.mail_jobs import children, mail_job
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.states import MailJobKind, MailJobState


@dg.asset(
    partitions_def=MAIL_JOBS,
    deps=[assembled_messages],
    group_name="dispatch",
    kinds={"postgres"},
    owners=shown.OWNERS,
    tags={"stage": "dispatch"},
    metadata={
        shown.COLUMN_SCHEMA: shown.columns(
            mail_job_id=("bigint", "The child, or the small mail job itself."),
            state=("mail_job_state", "Where it stands; see the docs page on the states of mail jobs."),
            mailcaster=("text", "Who works on it, or did."),
            first_message=("integer", "The range of the release's messages that it covers …"),
            last_message=("integer", "… up to and with this one."),
        )
    },
)
def child_jobs(context: dg.AssetExecutionContext, mail: dg.ResourceParam[MailSystem]) -> shown.Materialized:
    """Queue for delivery: puts one assembled mail job into the global queue and shows its children.

    A small mail job is queued as it is; a parent is divided by the mailcasters that take from it, each as
    much as its own parameters say, so a parent has no child yet at first. Materialise it again at any time
    to see the children as they are now: a mail job is queued once and never twice.
    """
    with told_to_operators(), mail.opened("queue", context.run.run_id) as installation:
        release_id = mail_job_id_of(context.partition_key)
        work_done = queue_once(installation, release_id)
        with installation.database.begin() as connection:
            top = mail_job(connection, release_id)
            pieces = children(connection, release_id) if top.kind is MailJobKind.PARENT else [top]
    if top.kind is not None:
        add_keys(
            context.instance,
            CHILD_JOBS,
            (piece.mail_job_id for piece in pieces),
        )
    return dg.MaterializeResult(
        metadata={
            shown.ROW_COUNT: len(pieces),
            "state": top.state.value,
            "kind": top.kind.value if top.kind else "not known before dedup",
            "this_run": work_done,
            "messages": top.message_count,
            "children": shown.table(
                (
                    "mail job",
                    "state",
                    "mailcaster",
                    "first",
                    "last",
                    "accepted",
                    "deferred",
                    "rejected",
                    "uncertain",
                ),
                (
                    (
                        str(piece.mail_job_id),
                        piece.state.value,
                        piece.mailcaster,
                        piece.first_message,
                        piece.last_message,
                        piece.accepted,
                        piece.deferred,
                        piece.rejected,
                        piece.uncertain,
                    )
                    for piece in pieces
                ),
                nothing="No mailcaster has taken from it yet.",
            ),
        }
    )


def queue_once(installation: Installation, release_id: int) -> str:
    """Queue the mail job if that is still to be done, and tell which it was."""
    if release(installation, release_id).state is not MailJobState.QUEUING:
        return "nothing: the mail job is queued already, or has ended"
    return f"queued: the mail job is {queue_release(installation, release_id).value} now"


global_queue = dg.AssetSpec(
    "global_queue",
    deps=[child_jobs],
    description=(
        "All mail jobs that are ready to be sent, of all installations, with the work that mailcasters "
        "left unfinished. It is a table in the database and is never materialised: mailcasters take from "
        "it by themselves. It stands here so that the way of the mail can be followed."
    ),
    group_name="dispatch",
    kinds={"postgres"},
    owners=shown.OWNERS,
    tags={"stage": "dispatch"},
)

"""ONTO THE WIRE: what became of the messages of each child, and delivering chosen children by hand."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from assets import shown
from assets.child_jobs import global_queue
from assets.failures import told_to_operators
from assets.interrupts import end_as_canceled, interrupts
from assets.mail_system import MailSystem
from assets.partitions import CHILD_JOBS, add_keys, mail_job_id_of, partition_key_of
from mail_orchestration.dispatch.mail_jobs import MailJob, mail_job
from mail_orchestration.feedback.reports import without_addresses
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import BadInput, BadSettings
from mail_orchestration.kernel.states import MailJobKind, MailJobState
from mail_orchestration.mailcaster import MailJobDone, work_on

DELIVERY_RESULTS = dg.AssetKey("delivery_results")

_READY = frozenset({MailJobState.QUEUED, MailJobState.RECOVERING})


class DeliverByHand(dg.Config):
    """Who delivers the chosen mail jobs that wait."""

    mailcaster: str | None = Field(
        default=None,
        description=(
            "The mailcaster whose parameters and relays are used, as named in the settings file. "
            "None: the first one there."
        ),
    )


@dg.multi_asset(
    name="deliver_chosen_children",
    specs=[
        dg.AssetSpec(
            DELIVERY_RESULTS,
            deps=[global_queue],
            skippable=True,
            description=(
                "What the relays answered to each message of one child (or small mail job): a row for "
                "every attempt, durable before the connection sends its next message. Mailcasters fill it "
                "while they work and report each partition as soon as its mail job has ended. Materialise "
                "partitions by hand to deliver chosen mail jobs that wait, or to tell the figures of those "
                "that have ended again: nothing is sent twice."
            ),
            group_name="egress",
            kinds={"postgres", "smtp"},
            owners=shown.OWNERS,
            tags={"stage": "egress"},
            metadata={
                shown.COLUMN_SCHEMA: shown.columns(
                    release_id=("bigint", "The mail job that the release made."),
                    message_no=("integer", "The message, of the asset assembled_messages."),
                    mail_job_id=("bigint", "The child, or the small mail job."),
                    contact_id=("bigint", "The contact."),
                    occurred_at=("timestamptz", "When the relay had answered."),
                    outcome=("outcome", "accepted, deferred, rejected, uncertain, stopped or expired."),
                    reply_code=("smallint", "RFC 5321 reply code, where there was a reply."),
                    enhanced_code=("text", "RFC 3463 enhanced status code."),
                    reply_text=("text", "The reply's text, unless the message was accepted."),
                    relay=("text", "The relay, as named in the settings file."),
                )
            },
        )
    ],
    partitions_def=CHILD_JOBS,
    # Children are chosen by the dozen: one run for all of them, and one process that holds the connections.
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def delivery_results(
    context: dg.AssetExecutionContext, config: DeliverByHand, mail: dg.ResourceParam[MailSystem]
) -> Iterator[shown.Materialized]:
    """Deliver chosen mail jobs that wait; tell the figures of chosen ones that have ended."""
    with (
        told_to_operators(),
        mail.opened("delivery by hand", context.run.run_id) as installation,
        interrupts() as stop,
    ):
        mailcaster = _mailcaster(installation, config.mailcaster)
        # Every key is looked at before the first message is sent: one wrong key among many stops none half
        # way.
        chosen = [_chosen(installation, key) for key in context.partition_keys]
        for found in chosen:
            if stop.is_set():
                break
            if found.state not in _READY:
                context.log_event(
                    told(
                        _as_done(found),
                        mailcaster=found.mailcaster,
                        this_run=f"nothing: it is {found.state.value}",
                    )
                )
                continue
            done = work_on(installation, mailcaster, found.mail_job_id, stop)
            _tell_of_work(context, installation, found, done, mailcaster)
    if stop.is_set():
        end_as_canceled(context)
    # Nothing is yielded: each key has got its own event above.
    yield from ()


def told(
    done: MailJobDone, *, mailcaster: str | None, this_run: str = "delivered"
) -> dg.AssetMaterialization | dg.AssetObservation:
    """The event that tells what became of one child or small mail job.

    An observation where it has not ended: a mail job that was handed back is no partition that is done.
    """
    if done.state.is_ended:
        return dg.AssetMaterialization(
            DELIVERY_RESULTS,
            partition=partition_key_of(done.mail_job_id),
            description=_headline(done),
            metadata=_metadata(done, mailcaster=mailcaster, this_run=this_run),
        )
    return dg.AssetObservation(
        DELIVERY_RESULTS,
        partition=partition_key_of(done.mail_job_id),
        description=_headline(done),
        metadata=_metadata(done, mailcaster=mailcaster, this_run=this_run),
    )


def _headline(done: MailJobDone) -> str:
    return f"{done.kind.value} mail job {done.mail_job_id} is {done.state.value}"


def _metadata(done: MailJobDone, *, mailcaster: str | None, this_run: str) -> shown.Metadata:
    messages = done.last_message - done.first_message + 1
    outcomes = {
        "accepted": done.accepted,
        "deferred": done.deferred,
        "rejected": done.rejected,
        "uncertain": done.uncertain,
        "stopped": done.stopped,
        "expired": done.expired,
        "without a result": max(0, messages - done.results),
    }
    reason: shown.Metadata = {"reason": without_addresses(done.reason)} if done.reason else {}
    return {
        shown.ROW_COUNT: done.results,
        "state": done.state.value,
        **reason,
        "this_run": this_run,
        "release": shown.partition_link("mail_job_report", partition_key_of(done.release_id)),
        "messages_of_the_release": f"{done.first_message} to {done.last_message}",
        "mailcaster": mailcaster or "none",
        "accepted": done.accepted,
        "outcomes": shown.table(
            ("outcome", "messages", "share"),
            ((outcome, count, shown.percentage(count, messages)) for outcome, count in outcomes.items()),
        ),
        "seconds": round(done.seconds, 2),
        "messages_per_second": shown.rate(done.results, done.seconds),
        "relay_errors": shown.table(
            ("relay", "last error"),
            ((relay, without_addresses(error)) for relay, error in done.relay_errors.items()),
            nothing="No relay gave trouble.",
        ),
    }


def _tell_of_work(
    context: dg.AssetExecutionContext,
    installation: Installation,
    chosen: MailJob,
    done: MailJobDone | None,
    mailcaster: str,
) -> None:
    """Tell of one that waited: delivered, taken by somebody else, or replaced by the mail job that recovered it."""
    if done is not None:
        if done.mail_job_id != chosen.mail_job_id:
            add_keys(context.instance, CHILD_JOBS, [done.mail_job_id])
        context.log_event(told(done, mailcaster=mailcaster, this_run=f"delivered by {mailcaster}"))
        if done.mail_job_id == chosen.mail_job_id:
            return
    with installation.database.begin() as connection:
        now = mail_job(connection, chosen.mail_job_id)
    work_done = (
        "nothing: another took it first"
        if done is None
        else f"recovered: mail job {done.mail_job_id} took its place"
    )
    context.log_event(told(_as_done(now), mailcaster=now.mailcaster, this_run=work_done))


def _mailcaster(installation: Installation, name: str | None) -> str:
    if name is not None:
        return installation.settings.mailcaster(name).name
    if not installation.settings.mailcasters:
        raise BadSettings("the settings file describes no mailcaster, so nobody can deliver")
    return installation.settings.mailcasters[0].name


def _chosen(installation: Installation, partition_key: str) -> MailJob:
    mail_job_id = mail_job_id_of(partition_key)
    with installation.database.begin() as connection:
        found = mail_job(connection, mail_job_id)
    if found.kind not in (MailJobKind.SMALL, MailJobKind.CHILD):
        raise BadInput(
            f"mail job {mail_job_id} is {found.kind.value if found.kind else 'not deduplicated yet'}: only "
            "children and small mail jobs are delivered; a parent is divided by the mailcasters"
        )
    if found.first_message is None:
        raise BadInput(f"mail job {mail_job_id} is {found.state.value} and has no messages to deliver")
    return found


def _as_done(found: MailJob) -> MailJobDone:
    """What a mailcaster would have told of it when it ended, or would tell now."""
    assert found.kind is not None
    assert found.first_message is not None
    assert found.last_message is not None
    ended = found.ended_at or found.heartbeat_at
    seconds = (ended - found.started_at).total_seconds() if ended and found.started_at else 0.0
    return MailJobDone(
        mail_job_id=found.mail_job_id,
        parent_id=found.parent_id,
        release_id=found.release_id,
        kind=found.kind,
        state=found.state,
        first_message=found.first_message,
        last_message=found.last_message,
        accepted=found.accepted,
        deferred=found.deferred,
        rejected=found.rejected,
        uncertain=found.uncertain,
        stopped=found.stopped,
        reason=found.reason,
        seconds=max(0.0, seconds),
    )

"""Releasing a campaign from Dagster's launchpad: it becomes a mail job, and the sensors do the rest."""

import dagster as dg
from pydantic import Field

from assets import shown
from assets.failures import told_to_operators
from assets.mail_system import MailSystem
from assets.partitions import MAIL_JOBS, add_keys, partition_key_of
from jobs.tags import PROCESS
from mail_orchestration import broadcast
from mail_orchestration.campaigns import folder_named


class CampaignToRelease(dg.Config):
    """Which campaign."""

    campaign: str = Field(
        description="The name of the campaign's folder in the installation's campaigns folder."
    )
    priority: int | None = Field(
        default=None, description="Instead of the campaign's own priority; higher ones are delivered first."
    )
    occurrence: str = Field(
        default="", description="What it is for, such as a day: for each, the same content goes out once."
    )
    again: bool = Field(
        default=False,
        description="Send it also to those who were queued the same content within the history.",
    )


@dg.op(tags={"stage": "dispatch"}, out=dg.Out(dg.Nothing))
def release_folder(
    context: dg.OpExecutionContext, config: CampaignToRelease, mail: dg.ResourceParam[MailSystem]
) -> None:
    """Freeze the campaign as it is now and make a mail job of it.

    Retrying this run gives the same mail job; launching the job anew gives another one.
    """
    with told_to_operators(), mail.opened("release", context.run.run_id) as installation:
        folder = folder_named(installation, config.campaign)
        released = broadcast.release_campaign(
            installation,
            folder,
            now=installation.now(),
            # A retry from Dagster's UI is a new run of the same root: it asks for the same thing again.
            request_key=f"dagster run {context.run.root_run_id or context.run_id}",
            priority=config.priority,
            occurrence=config.occurrence,
            again=config.again,
        )
    add_keys(context.instance, MAIL_JOBS, [released.release_id])
    context.log.info("campaign %s is released as mail job %d", released.campaign, released.release_id)
    context.add_output_metadata(
        {
            "mail_job": partition_key_of(released.release_id),
            "campaign": released.campaign,
            "released_at": released.released_at.isoformat(timespec="seconds"),
            "state": released.state.value,
            "again": released.again,
        }
    )


@dg.job(
    name="release_campaign",
    description=(
        "Release a campaign: freeze what it says and make a mail job of it. The sensors then assemble it, "
        "queue it and have it delivered."
    ),
    executor_def=dg.in_process_executor,
    tags={PROCESS: "release_campaign"},
    owners=shown.OWNERS,
)
def release_campaign() -> None:
    """One op: the release."""
    release_folder()

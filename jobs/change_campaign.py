"""Pausing, resuming and deleting a campaign from Dagster's launchpad (spec 3.4)."""

from enum import StrEnum
from typing import assert_never

import dagster as dg
from pydantic import Field

from assets import shown
from assets.failures import told_to_operators
from assets.mail_system import MailSystem
from jobs.tags import PROCESS
from mail_orchestration import campaigns


class Action(StrEnum):
    """What is to become of the campaign."""

    PAUSE = "pause"
    RESUME = "resume"
    DELETE = "delete"


class CampaignToChange(dg.Config):
    """Which campaign, and what is to become of it."""

    campaign: str = Field(description="The campaign's name, as its campaign.yaml says.")
    action: Action = Field(
        description=(
            "PAUSE holds what is not begun. RESUME lets it go on. DELETE makes the mail jobs that wait STOPPED, for "
            "good; those that have begun go on."
        )
    )


@dg.op(tags={"stage": "dispatch"}, out=dg.Out(dg.Nothing))
def change(
    context: dg.OpExecutionContext, config: CampaignToChange, mail: dg.ResourceParam[MailSystem]
) -> None:
    """Pause, resume or delete the campaign, and tell which mail jobs were stopped and which have begun."""
    with told_to_operators(), mail.opened("campaign", context.run.run_id) as installation:
        match config.action:
            case Action.PAUSE:
                changed = campaigns.pause(installation, config.campaign)
            case Action.RESUME:
                changed = campaigns.resume(installation, config.campaign)
            case Action.DELETE:
                changed = campaigns.delete(installation, config.campaign, now=installation.now())
            case _:
                assert_never(config.action)
    context.log.info("campaign %s was %s and is %s", changed.name, changed.left, changed.entered)
    context.add_output_metadata(
        {
            "campaign": changed.name,
            "state": changed.entered.value,
            "stopped": shown.table(
                ("mail job",), ((str(each),) for each in changed.stopped), nothing="No mail job was stopped."
            ),
            "begun": shown.table(
                ("mail job",), ((str(each),) for each in changed.begun), nothing="No mail job has begun."
            ),
        }
    )


@dg.job(
    name="change_campaign",
    description=(
        "Pause, resume or delete a campaign. Paused, nothing of it is begun; deleted, its mail jobs that wait are "
        "stopped for good. What mailcasters have in hand they finish."
    ),
    executor_def=dg.in_process_executor,
    tags={PROCESS: "change_campaign"},
    owners=shown.OWNERS,
)
def change_campaign() -> None:
    """One op: the change."""
    change()

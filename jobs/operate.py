"""Stopping and restarting mail jobs from Dagster's launchpad (spec 5.6)."""

from collections import Counter
from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from assets import shown
from assets.failures import told_to_operators
from assets.mail_system import MailSystem
from jobs.tags import PROCESS
from mail_orchestration import control
from mail_orchestration.control import Scope
from mail_orchestration.dispatch.operating import Operated
from mail_orchestration.kernel.states import MailJobState


class MailJobsToOperate(dg.Config):
    """Which mail jobs: exactly one of the first three."""

    mail_job: int | None = Field(
        default=None, description="The number of one mail job: of a release, or of a child."
    )
    campaign: str | None = Field(default=None, description="All mail jobs of the campaign of this name.")
    everything: bool = Field(default=False, description="All mail jobs of the installation.")
    wait_seconds: float = Field(
        default=5, description="How long to wait for mailcasters to let go of what they have in hand."
    )

    @property
    def scope(self) -> Scope:
        """What is meant. Raises BadInput unless exactly one is named."""
        return Scope(mail_job=self.mail_job, campaign=self.campaign, everything=self.everything)


@dg.op(tags={"stage": "dispatch"}, out=dg.Out(dg.Nothing))
def stop(
    context: dg.OpExecutionContext, config: MailJobsToOperate, mail: dg.ResourceParam[MailSystem]
) -> None:
    """Stop what is meant: what waits at once, what is being sent as soon as its mailcaster has let go of it."""
    with told_to_operators(), mail.opened("stop", context.run.run_id) as installation:
        done = control.stop(installation, config.scope)
        done = control.wait_until_stopped(installation, done, timeout_s=config.wait_seconds)
    _tell(context, done, nothing="Nothing is there to be stopped.")


@dg.op(tags={"stage": "dispatch"}, out=dg.Out(dg.Nothing))
def restart(
    context: dg.OpExecutionContext, config: MailJobsToOperate, mail: dg.ResourceParam[MailSystem]
) -> None:
    """Let what is meant go on where it was stopped; the sensor of the mailcasters finds it in its next look."""
    with told_to_operators(), mail.opened("restart", context.run.run_id) as installation:
        done = control.restart(installation, config.scope)
        done = control.wait_until_stopped(installation, done, timeout_s=config.wait_seconds)
    _tell(context, done, nothing="Nothing is stopped.")


def _tell(context: dg.OpExecutionContext, done: Sequence[Operated], *, nothing: str) -> None:
    """What became of each mail job, in the log by state and as a table."""
    entered = Counter(each.entered for each in done if each.is_changed)
    for state, number in sorted(entered.items()):
        context.log.info("%d mail jobs are %s now", number, state)
    still = [each.mail_job_id for each in done if each.entered is MailJobState.STOPPING]
    if still:
        context.log.warning(
            "mailcasters have not let go of %s yet", ", ".join(map(str, still[: shown.TABLE_ROWS_AT_MOST]))
        )
    context.add_output_metadata(
        {
            "changed": entered.total(),
            "still_stopping": len(still),
            "mail_jobs": shown.table(
                ("mail job", "child of", "was", "is", "note"),
                (
                    (
                        str(each.mail_job_id),
                        str(each.parent_id or ""),
                        each.left.value,
                        each.entered.value,
                        each.note,
                    )
                    for each in done
                ),
                nothing=nothing,
            ),
        }
    )


@dg.job(
    name="stop_mail_jobs",
    description=(
        "Stop one mail job, a campaign's, or everything. Messages in flight are finished and recorded; what is "
        "not sent waits until restart_mail_jobs."
    ),
    executor_def=dg.in_process_executor,
    tags={PROCESS: "stop_mail_jobs"},
    owners=shown.OWNERS,
)
def stop_mail_jobs() -> None:
    """One op: the stop."""
    stop()


@dg.job(
    name="restart_mail_jobs",
    description=(
        "Let one mail job, a campaign's, or everything go on where it was stopped. One that is named by its "
        "number goes on also where it has failed."
    ),
    executor_def=dg.in_process_executor,
    tags={PROCESS: "restart_mail_jobs"},
    owners=shown.OWNERS,
)
def restart_mail_jobs() -> None:
    """One op: the restart."""
    restart()

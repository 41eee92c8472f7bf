"""Global delivery queue: one sensor for the fleet of mailcasters and the single mailer, which wakes those for whom
there is work.

One and not one for each, because fifty sensors cost a fifth of a core. A mailcaster works one shift at a
time, which is guarded three times: here, by the run queue's limit on the tag, and by the lease in the
database, which is the truth.
"""

import dagster as dg

from assets.mail_system import MailSystem
from jobs.mailcaster import Shift, mailcaster
from jobs.single_mailer import single_mailer
from jobs.tags import MAILCASTER, SINGLE_MAILER
from mail_orchestration.control import end_stopping_of_dead_now
from mail_orchestration.holding import why_closed, why_held
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.mailcaster import has_work
from mail_orchestration.processes import process
from mail_orchestration.single_mailer import has_work as single_mailer_has_work
from schedules.lookout import look_out
from schedules.release_sensors import LOOK_EVERY_S
from schedules.runs import why_not_now

GLOBAL_DELIVERY_QUEUE = process("global_delivery_queue")


@dg.sensor(
    name=GLOBAL_DELIVERY_QUEUE.name,
    jobs=[mailcaster, single_mailer],
    minimum_interval_seconds=LOOK_EVERY_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=GLOBAL_DELIVERY_QUEUE.description,
)
def global_queue_sensor(
    context: dg.SensorEvaluationContext, mail: dg.ResourceParam[MailSystem]
) -> dg.SensorResult:
    """Eligible work and no active run: one run for the mailcaster, or for the single mailer."""
    installation = mail.shared()
    # First, since what was restarted before its mailcaster died is work from then on.
    end_stopping_of_dead_now(installation)
    look_out(lambda: why_held(installation) or _is_any_work(installation))
    # Looks at the database as well: one that was restored holds everything from here on.
    held = why_held(installation)
    requests = []
    said = [f"nothing is sent: {each.reason}" for each in held]
    if not held and single_mailer_has_work(installation):
        tags = {SINGLE_MAILER: installation.settings.installation}
        reason = why_not_now(context.instance, single_mailer.name, tags)
        if reason is None:
            requests.append(dg.RunRequest(job_name=single_mailer.name, tags=tags))
        else:
            said.append(f"single mailer: {reason}")
    for parameters in installation.settings.mailcasters:
        name = parameters.name
        try:
            if not has_work(installation, name, own_loose_mails=False):
                continue
        except BadSettings as error:
            # One that serves an unknown installation keeps nobody else from working.
            context.log.error(str(error))
            said.append(f"{name}: {error}")
            continue
        reason = why_not_now(context.instance, mailcaster.name, {MAILCASTER: name})
        if reason is not None:
            said.append(f"{name}: {reason}")
            continue
        requests.append(
            dg.RunRequest(
                job_name=mailcaster.name,
                run_config=dg.RunConfig(ops={"work_a_shift": Shift(mailcaster=name)}),
                tags={MAILCASTER: name},
            )
        )
    if not requests:
        if closed := why_closed(installation):
            said.append(closed)
        return dg.SensorResult(skip_reason="; ".join(said) or "There is no work for any mailcaster.")
    return dg.SensorResult(run_requests=requests)


def _is_any_work(installation: Installation) -> bool:
    """Whether there is work for anybody, or settings about which something is to be said."""
    try:
        return single_mailer_has_work(installation) or any(
            has_work(installation, each.name, own_loose_mails=False)
            for each in installation.settings.mailcasters
        )
    except BadSettings:
        return True

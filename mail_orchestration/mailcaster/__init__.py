"""The mailcaster's story: a shift is claim, deliver, settle, finish, until there is no more work (spec 4.3).

shift           the loop over mail jobs
claiming        what is taken next, and of which installation
delivery        one mail job: its results durable before a connection goes on
keeper          its heartbeat beside that, and what ends it early
message_feed    from the stored messages to egress
repeats         uncertain ones once more
"""

from mail_orchestration.mailcaster.claiming import has_work
from mail_orchestration.mailcaster.mail_job_done import MailJobDone
from mail_orchestration.mailcaster.shift import ShiftSummary, run_shift, work_on

__all__ = ["MailJobDone", "ShiftSummary", "has_work", "run_shift", "work_on"]

"""The mailcaster's story: a shift is claim, deliver, settle, finish, until there is no more work (spec 4.3).

shift           the loop over mail jobs
delivery        one mail job: its results durable before a connection goes on, its heartbeat beside it
components      the campaign's own, before and after a send
message_feed    from the stored messages to egress
"""

from mail_orchestration.mailcaster.delivery import MailJobDone
from mail_orchestration.mailcaster.shift import ShiftSummary, has_work, run_shift, work_on

__all__ = ["MailJobDone", "ShiftSummary", "has_work", "run_shift", "work_on"]

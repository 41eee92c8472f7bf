"""The tags by which runs are found again, and limited (deploy/dagster.yaml names the first one)."""

from __future__ import annotations

MAILCASTER = "mail/mailcaster"
"""A mailcaster's name. The run queue starts one run for each value at a time."""

SINGLE_MAILER = "mail/single_mailer"
"""The installation whose loose mails a run sends. The run queue starts one run for each value at a time."""

MAIL_JOBS_DONE = "mail/mail_jobs_done"
"""How many mail jobs a shift worked on, once it is over."""

PROCESS = "mail/process"
"""Which process of the global queue a run belongs to (spec 6.1)."""

"""Bulk mail on PostgreSQL that loses nothing, repeats nothing and writes to nobody too often.

Where a mail is tells where its code is. The five stages stand in the order in which mail flows:

    audience      WHO        contacts are imported, a release is resolved into its recipients
    composition   WHAT       each recipient's message is composed
    dispatch      WHEN, BY WHOM   mail jobs, their states, and the mailcasters' claims on them
    egress        ONTO THE WIRE   SMTP sessions and mail transactions
    feedback      WHAT CAME BACK  the results log, counts, books and reports

They know nothing of each other; `kernel` is their shared ground. Stories join them:

    broadcast     audience → release → recipients → assembled messages → the queue
    mailcaster    claim, deliver, settle, finish
    sending       what those share that send: loose mails among them
    preview       one message, without a release
    maintenance   what runs beside the mail
    simulation    a release of any size, on paper

Above them is `cli`. Dagster's layer (the packages assets, jobs and schedules) calls the stories; nothing here
knows Dagster.
"""

from pathlib import Path

from mail_orchestration.kernel.compiled import require_current

require_current(Path(__file__).parent)

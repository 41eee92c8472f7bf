"""WHEN, and BY WHOM: mail jobs and their states, who takes which part of them and holds it until it is done.

releases, mail_jobs   a mail job is created, frozen, queued, changed and read
message_store         its assembled messages, by the million
mailcaster_types, search_order, sizing    what a mailcaster looks for, and how much of it it takes (pure)
claims                a mailcaster takes the next piece of work, holds it and settles it
repeating             which uncertain messages are sent once more
recovery              what a dead mailcaster left behind becomes a new mail job
operating, stopping, restarting    the operator stops mail jobs, and lets them go on
failure_policy        when a mailcaster gives up (pure)
shifts                who is at work, for displays

The unit of work is a *range*: (release, first message, last message, fence). Within it the messages without a
result are the ones to send; no row is updated per message.
"""

from __future__ import annotations

"""A worker that sends loose mails of every kind that there is a way to prepare (spec 6.3: any worker takes any)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mail_orchestration.egress.relay import Relay
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.loose_mail_states import LooseMailKind
from mail_orchestration.sending.loose_mailer import LooseMailer
from mail_orchestration.sending.retries import RetryPreparer
from mail_orchestration.sending.station import Station

KINDS = (LooseMailKind.RETRY,)
"""What such a worker sends."""


def loose_mailer(
    inst: Installation,
    worker: str,
    relays: Sequence[Relay],
    connections: int,
    station: Station,
    stop: threading.Event,
) -> LooseMailer:
    """One that is called `worker`, over so many connections to these relays."""
    preparers = {LooseMailKind.RETRY: RetryPreparer(inst)}
    return LooseMailer(inst, worker, relays, connections, station, stop, preparers)

"""A worker that sends loose mails of every kind that there is a way to prepare (spec 6.3: any worker takes any)."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from mail_orchestration.egress.relay import Relay
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.loose_mail_states import LooseMailKind
from mail_orchestration.sending.loose_mailer import LooseMailer
from mail_orchestration.sending.preparing import Preparer
from mail_orchestration.sending.retries import RetryPreparer
from mail_orchestration.sending.singles import SinglePreparer
from mail_orchestration.sending.station import Station

KINDS = (LooseMailKind.SINGLE, LooseMailKind.RETRY)
"""What such a worker sends."""
KINDS_FOR_OTHERS = (LooseMailKind.RETRY,)
"""What it sends for other installations: what need not be composed, and so not be signed with keys that it has not."""


def loose_mailer(
    inst: Installation,
    worker: str,
    relays: Sequence[Relay],
    connections: int,
    station: Station,
    stop: threading.Event,
    *,
    kinds: Collection[LooseMailKind] = KINDS,
) -> LooseMailer:
    """One that is called `worker`, over so many connections to these relays. Close it when its shift is over."""
    preparers: dict[LooseMailKind, Preparer] = {
        LooseMailKind.SINGLE: SinglePreparer(inst, station.clock.now),
        LooseMailKind.RETRY: RetryPreparer(inst),
    }
    chosen = {kind: preparer for kind, preparer in preparers.items() if kind in kinds}
    return LooseMailer(inst, worker, relays, connections, station, stop, chosen)

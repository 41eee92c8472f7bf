"""A worker that sends loose mails of every kind that there is a way to prepare (spec 6.3: any worker takes any)."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from datetime import datetime

from mail_orchestration.dispatch.loose_mails import has_due_loose_mails
from mail_orchestration.dispatch.send_window import send_window
from mail_orchestration.egress.relay import Relay
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database_clock import database_now
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


def has_work(inst: Installation, *, now: datetime | None = None) -> bool:
    """Whether a single mailer would find something to send, now by the database's clock or at `now`. Cheap.

    What waits for the send window is nothing until it opens.
    """
    window = send_window(inst.settings)
    with inst.database.begin() as connection:
        at = now or database_now(connection)
        return has_due_loose_mails(connection, inst.installation_id, window.kinds_at(KINDS, at), at)

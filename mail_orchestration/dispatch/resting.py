"""Loose mails rest while what they belong to is paused, stopped or deleted, and go on with it (spec 3.4, 5.6, 7.1)."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection

from mail_orchestration.kernel.loose_mail_states import LooseMailState
from mail_orchestration.kernel.statements import STATEMENTS


def rest_loose_mails(
    connection: Connection,
    installation_id: int,
    enters: Literal[LooseMailState.PAUSED, LooseMailState.STOPPED],
    *,
    campaign_id: int | None = None,
    mail_job_id: int | None = None,
    why: str | None = None,
) -> int:
    """What waits of a campaign, or to retry messages of a mail job → `enters`; what is SENDING after that attempt.

    All of the installation when neither is named. Returns how many.
    """
    binds = {
        "installation_id": installation_id,
        "campaign_id": campaign_id,
        "mail_job_id": mail_job_id,
        "enters": enters,
        "description": why,
    }
    return len(connection.scalars(STATEMENTS["rest_loose_mails"], binds).all())


def wake_loose_mails(
    connection: Connection,
    installation_id: int,
    *,
    campaign_id: int | None = None,
    mail_job_id: int | None = None,
) -> int:
    """PAUSED → SCHEDULED, as above. Returns how many.

    What something else still holds is PAUSED again when its time has come.
    """
    binds = {"installation_id": installation_id, "campaign_id": campaign_id, "mail_job_id": mail_job_id}
    return len(connection.scalars(STATEMENTS["wake_loose_mails"], binds).all())

"""Single mails as the operator sees them: those that wait or failed, and what they say, exactly."""

from __future__ import annotations

from collections.abc import Collection

from mail_orchestration.composition.compression import Compressor
from mail_orchestration.dispatch.frozen_campaigns import read_frozen_campaign
from mail_orchestration.dispatch.loose_mail_lists import LooseMailListed, list_loose_mails
from mail_orchestration.dispatch.single_mails import EndedSingleMail, SingleMailDetails, read_single_mail
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.loose_mail_states import LooseMailKind, LooseMailState


def single_mails(
    inst: Installation,
    *,
    states: Collection[LooseMailState] | None = None,
    campaign: str | None = None,
    most: int = 1000,
) -> list[LooseMailListed]:
    """The first `most` single mails that have not come to their end, in the order in which they will go."""
    with inst.database.begin() as connection:
        return list_loose_mails(
            connection,
            inst.installation_id,
            states=states,
            kind=LooseMailKind.SINGLE,
            campaign=campaign,
            most=most,
        )


def single_mail(
    inst: Installation, loose_mail_id: int
) -> tuple[SingleMailDetails | EndedSingleMail, bytes | None]:
    """One single mail, and the octets of its message from when it is composed until they are past retention.

    Raises NotFound and BadStoredMessage.
    """
    with inst.database.begin() as connection:
        found = read_single_mail(connection, inst.installation_id, loose_mail_id)
        if found.message is None or found.frozen_campaign_id is None:
            return found, None
        dictionary = read_frozen_campaign(connection, found.frozen_campaign_id).dictionary
    data, _ = Compressor(dictionary or b"").read(found.message)
    return found, data

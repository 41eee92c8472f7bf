"""What other installations of the database say of the relays that we name too (spec 6.7)."""

from __future__ import annotations

from pydantic import ValidationError
from sqlalchemy import Connection

from mail_orchestration.dispatch.relay_limits import StatedLimits, limits_of_others
from mail_orchestration.egress.ports import Scope
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.relay_settings import StatedRelayLimits
from mail_orchestration.throttling.known_limits import KnownLimits, RelayLimits


def hear_others(connection: Connection, known: KnownLimits) -> bool:
    """Let `known` know it; whether that is something else than before.

    Raises BadSettings when it cannot be read: their processes run another version.
    """
    return known.hear(_of(each) for each in limits_of_others(connection, known.installation, known.relays))


def _of(told: StatedLimits) -> RelayLimits:
    try:
        stated = StatedRelayLimits.model_validate(told.limits)
    except ValidationError:
        raise BadSettings(
            f"what installation {told.installation} noted of relay {told.relay} cannot be read here; "
            "run the same version everywhere"
        ) from None
    return RelayLimits.of(told.installation, Scope("relay", told.relay), stated)

"""What a campaign's own components see around a send (spec 1.6). Not compiled: they may copy and pickle it."""

from __future__ import annotations

from dataclasses import dataclass

from mail_orchestration.kernel.attempts import DeliveryResult, OutgoingMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageInHand:
    """What those of the stages throttle and send see: a message that is about to be sent."""

    recipient_no: int
    message: OutgoingMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageWithResult:
    """What those of the stage postprocess see: a message whose result is durable."""

    recipient_no: int
    result: DeliveryResult

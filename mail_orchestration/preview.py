"""The preview story: a campaign as one contact would get it, without a release (spec 2.1)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from mail_orchestration.audience.contacts import find_contact
from mail_orchestration.audience.members import find_members
from mail_orchestration.composing import composing, facts_of_no_mail_job
from mail_orchestration.composition.checking import check
from mail_orchestration.composition.compression import Compressor
from mail_orchestration.composition.context import envelope_sender
from mail_orchestration.composition.definition import Campaign, load_campaign
from mail_orchestration.composition.findings import Finding
from mail_orchestration.egress.delivery import deliver
from mail_orchestration.egress.throttle import Throttle
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.addresses import normalise_address
from mail_orchestration.kernel.attempts import DeliveryResult, OutgoingMessage
from mail_orchestration.kernel.clock import utc_now
from mail_orchestration.kernel.errors import BadAddress, BadCampaign, NotFound, Unavailable
from mail_orchestration.kernel.model import Recipient
from mail_orchestration.relays import relays_of
from mail_orchestration.throttling import SharedThrottle

TEST_CONNECTIONS = 2
UNREACHABLE_AFTER_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """One message, and what `check` has to say about the campaign."""

    data: bytes
    """The RFC 5322 message."""
    recipient: Recipient
    findings: Sequence[Finding]

    @property
    def parsed(self) -> EmailMessage:
        """The message as a mail program would read it."""
        # The message is our own composer's: for mail that comes in this policy would be unsafe.
        return message_from_bytes(self.data, _class=EmailMessage, policy=policy.default)

    @property
    def subject(self) -> str:
        """Its subject, decoded."""
        return str(self.parsed["Subject"])

    @property
    def size(self) -> int:
        """Its octets."""
        return len(self.data)


def preview_message(inst: Installation, folder: Path, *, address: str | None = None) -> Preview:
    """Compose the campaign for the contact with this address, or for its sample contact.

    Raises BadCampaign naming file and line, also of what cannot be composed for this contact, and NotFound when no
    audience of the campaign has the address.
    """
    campaign = load_campaign(folder)
    recipient = _sample(campaign) if address is None else _member(inst, campaign, address)
    (data,) = _compose(inst, campaign, [recipient], utc_now())
    return Preview(
        data=data,
        recipient=recipient,
        findings=check(campaign, settings=inst.settings),
    )


def test_send(
    inst: Installation, folder: Path, addresses: Sequence[str], *, now: datetime
) -> list[DeliveryResult]:
    """Send the campaign to these addresses at once: what `preview` shows, through the relays of the settings.

    A member of the campaign's audiences gets her own message, everybody else the sample contact's. It is outside
    the frequency policy and not counted (spec 8.6), and leaves no mail job. Raises as `preview_message`, BadAddress,
    and RelayUnreachable. The result's message number is the address's place in `addresses`, from 1.
    """
    campaign = load_campaign(folder)
    recipients = [
        replace(_member_or_sample(inst, campaign, address), recipient_no=number)
        for number, address in enumerate(addresses, 1)
    ]
    reverse_path = envelope_sender(facts_of_no_mail_job(inst, now), campaign.definition)
    messages = deque(
        OutgoingMessage(each.recipient_no, each.contact_id, reverse_path, each.address, data)
        for each, data in zip(recipients, _compose(inst, campaign, recipients, now), strict=True)
    )
    kept = _Kept(messages)
    asyncio.run(_send(inst, kept))
    return sorted(kept.results, key=lambda result: result.message_no)


async def _send(inst: Installation, kept: _Kept) -> None:
    throttle = Throttle(SharedThrottle(inst.database, inst.settings))
    report = await deliver(
        kept,
        kept,
        relays_of(inst.settings),
        connections=TEST_CONNECTIONS,
        stop=asyncio.Event(),
        unreachable_after_s=UNREACHABLE_AFTER_S,
        throttle=throttle,
    )
    await throttle.close()
    if report.returned:
        raise Unavailable(f"{report.returned} test messages were not sent: {report.last_relay_errors}")


class _Kept:
    """Source and sink of a delivery in memory: a test message that is lost is sent again by hand."""

    def __init__(self, messages: deque[OutgoingMessage]) -> None:
        self._messages = messages
        self.results: list[DeliveryResult] = []

    async def take(self) -> OutgoingMessage | None:
        return self._messages.popleft() if self._messages else None

    def record(self, result: DeliveryResult) -> Awaitable[None]:
        self.results.append(result)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


def _compose(
    inst: Installation, campaign: Campaign, recipients: Sequence[Recipient], now: datetime
) -> list[bytes]:
    """The messages, made in a process that a template without end cannot hold up. Raises BadCampaign."""
    with composing(inst, campaign, facts_of_no_mail_job(inst, now)) as pool:
        messages: list[bytes] = []
        compressor = Compressor(pool.dictionary)
        for batch in pool.assemble(([recipient] for recipient in recipients), dated=now):
            for bypass in batch.bypasses:
                raise BadCampaign(f"{bypass.detail} ({bypass.reason})")
            messages += (compressor.read(block)[0] for block in batch.blocks)
        return messages


def _member(inst: Installation, campaign: Campaign, address: str) -> Recipient:
    definition = campaign.definition
    with inst.database.begin() as connection:
        contact = find_contact(connection, inst.installation_id, _normalised(address))
        numbers = [] if contact is None else [contact.contact_id]
        for found in find_members(connection, inst.installation_id, definition.audiences, numbers).values():
            return found
    raise NotFound(f"no audience of campaign {definition.name} has the address {address}")


def _member_or_sample(inst: Installation, campaign: Campaign, address: str) -> Recipient:
    try:
        return _member(inst, campaign, address)
    except NotFound:
        return _sample(campaign, _normalised(address))


def _normalised(address: str) -> str:
    try:
        return normalise_address(address)
    except BadAddress as error:
        raise BadAddress(f"{address!r}: {error}") from None


def _sample(campaign: Campaign, address: str = "sample@example.org") -> Recipient:
    return Recipient(
        recipient_no=1, contact_id=0, address=address, attributes=dict(campaign.definition.sample_contact)
    )

"""Single mails get their messages when they are sent: composed once, stored, and the same octets ever after (spec 7.1).

It blocks: call it in a thread, one call at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import Self

from mail_orchestration.audience.members import find_members
from mail_orchestration.composition.assembly import AssembledBatch
from mail_orchestration.composition.compression import BadStoredMessage
from mail_orchestration.composition.errors import FaultReason
from mail_orchestration.dispatch.loose_mails import ReservedMail
from mail_orchestration.dispatch.single_mails import ComposedMail, store_composed_mails
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.components import load_components, run_components
from mail_orchestration.kernel.errors import AssemblyFailed, BadCampaign, ComponentFailed, NotFound
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.kernel.model import Bypass, OutgoingMessage, Recipient
from mail_orchestration.single_mailer.contents import STAGES
from mail_orchestration.single_mailer.frozen_contents import FrozenContent, FrozenContents

AT_ONCE = 40
"""Mails of one campaign that are composed together: no more, since of all of them the pages are in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyMail:
    """A single mail whose message is stored."""

    mail: ReservedMail
    stored: bytes
    content: FrozenContent = field(repr=False)

    @property
    def resends_uncertain(self) -> bool:
        """Whether it is sent once more when nobody knows whether it arrived (spec 5.7)."""
        return self.content.campaign.definition.on_uncertain == "resend"

    def outgoing(self) -> OutgoingMessage:
        """The message as it goes onto the wire, under the mail's number. Raises BadStoredMessage."""
        try:
            data = self.content.compressor.decompress(self.stored)
        except BadStoredMessage:
            number = self.mail.loose_mail_id
            raise BadStoredMessage(f"single mail {number} cannot be read as it is stored") from None
        return OutgoingMessage(
            self.mail.loose_mail_id, self.mail.contact_id, self.content.reverse_path, self.mail.address, data
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfitMail:
    """A single mail that has no message."""

    mail: ReservedMail
    code: FailureCode | None
    """None: a component of the campaign does not want it sent, which is no failure."""
    reason: str
    """Holds no address."""


@dataclass(slots=True)
class Prepared:
    """What became of some mails: each is in one of the lists, but for those that are in other hands by now."""

    ready: list[ReadyMail] = field(default_factory=list)
    unfit: list[UnfitMail] = field(default_factory=list)


class SingleMailComposer:
    """Composes for one worker. A context manager; not for several threads at once."""

    def __init__(self, inst: Installation, clock: Callable[[], datetime]) -> None:
        self._inst = inst
        self._clock = clock
        self._contents = FrozenContents(inst)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._contents.__exit__(kind, error, trace)

    def prepare(self, mails: Sequence[ReservedMail]) -> Prepared:
        """Have a message ready for each of the mails, which are single mails in this worker's hands.

        Raises DatabaseUnavailable: what was composed until then and could not be stored is composed anew by whoever has
        them next, and nothing of it was sent.
        """
        prepared = Prepared()
        by_content: dict[int, list[ReservedMail]] = defaultdict(list)
        for mail in mails:
            assert mail.frozen_campaign_id is not None, "a single mail has frozen content"
            by_content[mail.frozen_campaign_id].append(mail)
        for frozen_campaign_id, group in by_content.items():
            try:
                content = self._contents.of(frozen_campaign_id, self._clock())
            except (NotFound, BadCampaign) as error:
                prepared.unfit += _all_unfit(group, FailureCode.CAMPAIGN_NOT_LOADED, str(error))
                continue
            new = []
            for mail in group:
                if mail.message is None:
                    new.append(mail)
                else:
                    prepared.ready.append(ReadyMail(mail=mail, stored=mail.message, content=content))
            for start in range(0, len(new), AT_ONCE):
                self._compose(content, new[start : start + AT_ONCE], prepared)
        in_order = {mail.loose_mail_id: place for place, mail in enumerate(mails)}
        prepared.ready.sort(key=lambda each: in_order[each.mail.loose_mail_id])
        return prepared

    def _compose(self, content: FrozenContent, mails: Sequence[ReservedMail], prepared: Prepared) -> None:
        by_number = {mail.loose_mail_id: mail for mail in mails}
        recipients = self._recipients(content, mails)
        try:
            wanted = list(self._wanted(content, recipients, by_number, prepared))
        except (ComponentFailed, NotFound) as error:
            prepared.unfit += _all_unfit(mails, FailureCode.CUSTOM_FUNCTION_FAILED, str(error))
            return
        if not wanted:
            return
        try:
            batch = self._assembled(content, wanted)
        except BadCampaign as error:
            code, reason = FailureCode.TEMPLATE_FORMAT_EXCEPTION, str(error)
        except AssemblyFailed as error:
            code, reason = FailureCode.RENDERING_EXCEPTION, str(error)
        else:
            prepared.unfit += (
                UnfitMail(mail=by_number[each.recipient_no], code=_code_of(each), reason=each.detail)
                for each in batch.bypasses
            )
            self._store(content, batch, by_number, prepared)
            return
        prepared.unfit += _all_unfit([by_number[each.recipient_no] for each in wanted], code, reason)

    def _recipients(self, content: FrozenContent, mails: Sequence[ReservedMail]) -> list[Recipient]:
        """Whom the mails are for, with the details that the campaign's audiences know; the mails' own win."""
        with self._inst.database.begin() as connection:
            members = find_members(
                connection,
                self._inst.installation_id,
                content.campaign.definition.audiences,
                {mail.contact_id for mail in mails},
            )
        recipients = []
        for mail in mails:
            known = members.get(mail.contact_id) or Recipient(
                recipient_no=0, contact_id=mail.contact_id, address=mail.address
            )
            attributes = {**known.attributes, **(mail.attributes or {})}
            recipients.append(
                replace(known, recipient_no=mail.loose_mail_id, address=mail.address, attributes=attributes)
            )
        return recipients

    def _wanted(
        self,
        content: FrozenContent,
        recipients: Sequence[Recipient],
        by_number: dict[int, ReservedMail],
        prepared: Prepared,
    ) -> Iterator[Recipient]:
        """The recipients whom no component of the campaign bypasses."""
        named = content.campaign.definition.components
        components = [component for stage in STAGES for component in load_components(named, stage)]
        bypassed = {bypass.recipient_no: bypass for _, bypass in run_components(components, recipients)}
        for recipient in recipients:
            bypass = bypassed.get(recipient.recipient_no)
            if bypass is None:
                yield recipient
            else:
                mail = by_number[bypass.recipient_no]
                prepared.unfit.append(UnfitMail(mail=mail, code=None, reason=bypass.reason))

    def _assembled(self, content: FrozenContent, recipients: Sequence[Recipient]) -> AssembledBatch:
        try:
            (batch,) = content.pool().assemble([recipients], dated=self._clock())
        except AssemblyFailed:
            content.end_pool()
            raise
        if any(bypass.reason == FaultReason.TEMPLATE_LIMITS for bypass in batch.bypasses):
            # A pool gives up after some of them: those of a whole shift say nothing against the template.
            content.end_pool()
        return batch

    def _store(
        self,
        content: FrozenContent,
        batch: AssembledBatch,
        by_number: dict[int, ReservedMail],
        prepared: Prepared,
    ) -> None:
        composed = [
            ComposedMail(each.recipient_no, by_number[each.recipient_no].fence, each.stored, each.size)
            for each in batch.messages
        ]
        with self._inst.database.begin() as connection:
            stored = store_composed_mails(connection, composed)
        prepared.ready += (
            ReadyMail(mail=by_number[each.loose_mail_id], stored=each.stored, content=content)
            for each in composed
            if each.loose_mail_id in stored
        )


def _code_of(bypass: Bypass) -> FailureCode:
    if bypass.reason == FaultReason.PAGE_UNAVAILABLE:
        return FailureCode.IO_EXCEPTION
    return FailureCode.RENDERING_EXCEPTION


def _all_unfit(mails: Sequence[ReservedMail], code: FailureCode, reason: str) -> Iterator[UnfitMail]:
    return (UnfitMail(mail=mail, code=code, reason=reason) for mail in mails)

"""Single mails become messages when they are sent: composed once, stored, and the same octets ever after (spec 7.1)."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from mail_orchestration.audience.members import find_members
from mail_orchestration.audience.resolving import AUDIENCE_STAGES
from mail_orchestration.composition.assembly import AssembledBatch
from mail_orchestration.composition.errors import BadStoredMessage, FaultReason
from mail_orchestration.dispatch.loose_mails import ReservedMail
from mail_orchestration.dispatch.single_mails import ComposedMail, store_composed_mails
from mail_orchestration.dispatch.unsent import UnsentMessage
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.components import load_components, run_components
from mail_orchestration.kernel.errors import AssemblyFailed, BadCampaign, ComponentFailed, NotFound
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.kernel.model import Bypass, Recipient
from mail_orchestration.sending.frozen_contents import FrozenContent, FrozenContents
from mail_orchestration.sending.preparing import Prepared, Ready, Unsendable, not_sent

_log = logging.getLogger(__name__)

RECIPIENT_STAGES = (*AUDIENCE_STAGES, "cookies", "compose")
"""The stages of a campaign's components (spec 1.6) that look at recipients, before there is a message."""
AT_ONCE = 40
"""Mails of one campaign that are composed together: no more, since the pages of all of them are in memory at once."""


class SinglePreparer:
    """Makes single mails ready (see `Preparer`). Keeps what they say, and the processes that compose, until closed."""

    def __init__(self, inst: Installation, clock: Callable[[], datetime]) -> None:
        self._inst = inst
        self._clock = clock
        self._contents = FrozenContents(inst)

    async def prepare(self, mails: Sequence[ReservedMail]) -> list[Prepared]:
        """Compose what has no message yet, and keep it.

        Of one that is in other hands by now nothing is told. Raises DatabaseUnavailable: what was composed and could
        not be stored is composed anew by whoever has the mail next, and nothing of it was sent.
        """
        prepared: list[Prepared] = []
        by_content: dict[int, list[ReservedMail]] = defaultdict(list)
        for mail in mails:
            assert mail.frozen_campaign_id is not None, "a single mail has frozen content"
            by_content[mail.frozen_campaign_id].append(mail)
        for frozen_campaign_id, of_one in by_content.items():
            try:
                content = await asyncio.to_thread(self._contents.of, frozen_campaign_id, self._clock())
            except (NotFound, BadCampaign) as error:
                prepared += _all_unsendable(of_one, FailureCode.CAMPAIGN_NOT_LOADED, str(error))
                continue
            for start in range(0, len(of_one), AT_ONCE):
                prepared += await self._prepared(content, of_one[start : start + AT_ONCE])
        return prepared

    async def finish(self) -> None:
        """Show components the results that they have not seen. One that fails is told of in the log."""
        for content in self._contents.used():
            try:
                await content.finish()
            except ComponentFailed as error:
                _log.warning("single mails of campaign %s: %s", content.campaign.definition.name, error)

    def close(self) -> None:
        """End the processes that compose."""
        self._contents.close()

    async def _prepared(self, content: FrozenContent, mails: Sequence[ReservedMail]) -> list[Prepared]:
        new = [mail for mail in mails if mail.message is None]
        prepared, composed = await asyncio.to_thread(self._composed, content, new)
        known = [_row(mail, mail.message, mail.size or 0) for mail in mails if mail.message is not None]
        by_number = {mail.loose_mail_id: mail for mail in mails}
        return prepared + await self._let_through(content, [*known, *composed], by_number)

    async def _let_through(
        self, content: FrozenContent, rows: Sequence[UnsentMessage], by_number: Mapping[int, ReservedMail]
    ) -> list[Prepared]:
        """What the campaign's components make of messages that are about to be sent."""
        mails = [by_number[row.message_no] for row in rows]
        prepared: list[Prepared] = []

        async def keep_back(reason: str, kept: Sequence[UnsentMessage]) -> None:
            prepared.extend(not_sent(by_number[row.message_no], Outcome.STOPPED, reason) for row in kept)

        try:
            components = content.components()
            passed = await components.let_through(rows, content.outgoing, keep_back)
        except (ComponentFailed, NotFound) as error:
            return _all_unsendable(mails, FailureCode.CUSTOM_FUNCTION_FAILED, str(error))
        except BadStoredMessage as error:
            # Found while components looked at all of them: each by itself tells which one it is.
            if len(rows) > 1:
                return [one for row in rows for one in await self._let_through(content, [row], by_number)]
            return _all_unsendable(mails, FailureCode.PERSISTENCE_EXCEPTION, str(error))
        prepared += (
            Ready(
                mail=by_number[row.message_no],
                compose=partial(content.outgoing, row),
                resends_uncertain=content.campaign.definition.on_uncertain == "resend",
                watch=components.watch,
            )
            for row in passed
        )
        return prepared

    # In a thread --------------------------------------------------------------------------------------------------

    def _composed(
        self, content: FrozenContent, mails: Sequence[ReservedMail]
    ) -> tuple[list[Prepared], list[UnsentMessage]]:
        """Why some of the mails are not sent, and the messages of the others, which are stored now."""
        if not mails:
            return [], []
        by_number = {mail.loose_mail_id: mail for mail in mails}
        try:
            wanted, prepared = self._wanted(content, by_number)
        except (ComponentFailed, NotFound) as error:
            return _all_unsendable(mails, FailureCode.CUSTOM_FUNCTION_FAILED, str(error)), []
        try:
            batch = self._assembled(content, wanted)
        except BadCampaign as error:
            code, why = FailureCode.TEMPLATE_FORMAT_EXCEPTION, str(error)
        except AssemblyFailed as error:
            code, why = FailureCode.RENDERING_EXCEPTION, str(error)
        else:
            prepared += (
                Unsendable(mail=by_number[each.recipient_no], code=_code_of(each), why=each.detail)
                for each in batch.bypasses
            )
            return prepared, self._stored(batch, by_number)
        return prepared + _all_unsendable([by_number[each.recipient_no] for each in wanted], code, why), []

    def _wanted(
        self, content: FrozenContent, by_number: Mapping[int, ReservedMail]
    ) -> tuple[list[Recipient], list[Prepared]]:
        """Whom the mails are for, and those whom a component of the campaign bypasses."""
        recipients = self._recipients(content, by_number.values())
        named = content.campaign.definition.components
        components = [component for stage in RECIPIENT_STAGES for component in load_components(named, stage)]
        bypassed = {bypass.recipient_no: bypass for _, bypass in run_components(components, recipients)}
        aside: list[Prepared] = [
            not_sent(by_number[number], Outcome.STOPPED, bypass.reason) for number, bypass in bypassed.items()
        ]
        return [each for each in recipients if each.recipient_no not in bypassed], aside

    def _recipients(self, content: FrozenContent, mails: Iterable[ReservedMail]) -> list[Recipient]:
        """Numbered by their mails, with the details that the campaign's audiences know; the mails' own win."""
        by_contact = {mail.contact_id for mail in mails}
        with self._inst.database.begin() as connection:
            members = find_members(
                connection,
                self._inst.installation_id,
                content.campaign.definition.audiences,
                by_contact,
            )
        recipients = []
        for mail in mails:
            stranger = Recipient(recipient_no=0, contact_id=mail.contact_id, address=mail.address)
            known = members.get(mail.contact_id, stranger)
            attributes = {**known.attributes, **(mail.attributes or {})}
            recipients.append(
                replace(known, recipient_no=mail.loose_mail_id, address=mail.address, attributes=attributes)
            )
        return recipients

    def _assembled(self, content: FrozenContent, recipients: Sequence[Recipient]) -> AssembledBatch:
        if not recipients:
            return AssembledBatch()
        try:
            (batch,) = content.pool().assemble([recipients], dated=self._clock())
        except AssemblyFailed:
            content.end_pool()
            raise
        if any(bypass.reason == FaultReason.TEMPLATE_LIMITS for bypass in batch.bypasses):
            # A pool gives up after some of them: those of a whole shift say nothing against the template.
            content.end_pool()
        return batch

    def _stored(self, batch: AssembledBatch, by_number: Mapping[int, ReservedMail]) -> list[UnsentMessage]:
        """Keep the messages for good. What is in other hands by now is left out."""
        composed = [
            ComposedMail(each.recipient_no, by_number[each.recipient_no].fence, block, each.size)
            for each, block in zip(batch.messages, batch.blocks, strict=True)
        ]
        with self._inst.database.begin() as connection:
            stored = store_composed_mails(connection, composed)
        return [
            _row(by_number[each.loose_mail_id], each.stored, each.size)
            for each in composed
            if each.loose_mail_id in stored
        ]


def _row(mail: ReservedMail, stored: bytes, size: int) -> UnsentMessage:
    number = mail.loose_mail_id
    return UnsentMessage(number, number, mail.contact_id, mail.address, size, 0, stored)


def _code_of(bypass: Bypass) -> FailureCode:
    if bypass.reason == FaultReason.PAGE_UNAVAILABLE:
        return FailureCode.IO_EXCEPTION
    return FailureCode.RENDERING_EXCEPTION


def _all_unsendable(mails: Iterable[ReservedMail], code: FailureCode, why: str) -> list[Prepared]:
    return [Unsendable(mail=mail, code=code, why=why) for mail in mails]

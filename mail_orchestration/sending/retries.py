"""Retries: messages of releases once more, byte for byte, as their mail job would have sent them (spec 6.3, 6.4)."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from functools import partial

from mail_orchestration.composition.context import envelope_sender
from mail_orchestration.composition.errors import BadStoredMessage
from mail_orchestration.dispatch.loose_mails import ReservedMail
from mail_orchestration.dispatch.unsent import UnsentMessage
from mail_orchestration.frozen import FrozenRelease, read_frozen
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome, OutgoingMessage
from mail_orchestration.kernel.errors import BadCampaign, ComponentFailed, NotFound
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.sending.components import SendComponents
from mail_orchestration.sending.preparing import Prepared, Ready, Unsendable, not_sent

_log = logging.getLogger(__name__)

RELEASES_KEPT = 8
"""Releases that are kept at hand, with their templates, files and dictionaries."""


class RetryPreparer:
    """Makes retries ready. Keeps the releases that they are of from one batch to the next."""

    def __init__(self, inst: Installation) -> None:
        self._inst = inst
        self._releases: OrderedDict[int, _RetriedRelease] = OrderedDict()

    async def prepare(self, mails: Sequence[ReservedMail]) -> list[Prepared]:
        """See `Preparer`."""
        by_release: dict[int, list[ReservedMail]] = defaultdict(list)
        prepared: list[Prepared] = []
        for mail in mails:
            if mail.of_release is None or mail.of_release.block is None:
                why = "its message is past retention"
                prepared.append(Unsendable(mail=mail, code=FailureCode.PERSISTENCE_EXCEPTION, why=why))
            else:
                by_release[mail.of_release.release_id].append(mail)
        for release_id, of_one in by_release.items():
            try:
                release = await self._release(release_id)
            except (NotFound, BadCampaign) as error:
                # By themselves: the mails of all others wait behind them.
                code = FailureCode.CAMPAIGN_NOT_LOADED
                prepared += (Unsendable(mail=mail, code=code, why=str(error)) for mail in of_one)
                continue
            prepared += await release.prepare(of_one)
        return prepared

    async def finish(self) -> None:
        """Show components what is left to be shown. One that fails is told of in the log, and of nothing more."""
        for release in self._releases.values():
            await release.finish()

    def close(self) -> None:
        """Nothing is kept that must be ended."""

    async def _release(self, release_id: int) -> _RetriedRelease:
        known = self._releases.get(release_id)
        if known is None:
            known = _RetriedRelease(await asyncio.to_thread(self._read, release_id))
            self._releases[release_id] = known
            if len(self._releases) > RELEASES_KEPT:
                _, oldest = self._releases.popitem(last=False)
                await oldest.finish()
        self._releases.move_to_end(release_id)
        return known

    def _read(self, release_id: int) -> FrozenRelease:
        with self._inst.database.begin() as connection:
            return read_frozen(connection, self._inst, release_id)


class _RetriedRelease:
    """What all retries of one release share."""

    def __init__(self, frozen: FrozenRelease) -> None:
        definition = frozen.campaign.definition
        self._release_id = frozen.release.release_id
        self._compressor = frozen.compressor
        self._reverse_path = envelope_sender(frozen.facts, definition)
        self._resends_uncertain = definition.on_uncertain == "resend"
        self._named = definition.components
        self._components: SendComponents | None = None

    async def prepare(self, mails: Sequence[ReservedMail]) -> list[Prepared]:
        by_message = {mail.of_release.message_no: mail for mail in mails if mail.of_release is not None}
        refused: list[Prepared] = []

        async def keep_back(reason: str, rows: Sequence[UnsentMessage]) -> None:
            refused.extend(not_sent(by_message[row.message_no], Outcome.STOPPED, reason) for row in rows)

        try:
            if self._components is None or self._components.failure is not None:
                self._components = SendComponents(self._named)
            passed = await self._components.let_through(
                [_row(mail) for mail in mails], self._composed, keep_back
            )
        except ComponentFailed as error:
            code = FailureCode.CUSTOM_FUNCTION_FAILED
            return [Unsendable(mail=mail, code=code, why=str(error)) for mail in mails]
        except BadStoredMessage as error:
            # Found while components looked at the batch: each of it by itself tells which one it is.
            if len(mails) > 1:
                return [one for mail in mails for one in await self.prepare([mail])]
            return [Unsendable(mail=mails[0], code=FailureCode.PERSISTENCE_EXCEPTION, why=str(error))]
        ready = [self._ready(by_message[row.message_no], row, self._components) for row in passed]
        return [*ready, *refused]

    async def finish(self) -> None:
        if self._components is not None:
            try:
                await self._components.finish()
            except ComponentFailed as error:
                _log.warning("retries of mail job %d: %s", self._release_id, error)

    def _ready(self, mail: ReservedMail, row: UnsentMessage, components: SendComponents) -> Ready:
        def watch(result: DeliveryResult, durable: asyncio.Future[None]) -> None:
            components.watch(result.of_message(row.message_no), durable)

        return Ready(
            mail=mail,
            compose=partial(self._numbered, mail.loose_mail_id, row),
            resends_uncertain=self._resends_uncertain,
            watch=watch,
        )

    def _composed(self, row: UnsentMessage) -> OutgoingMessage:
        """As components know it: under its number in the release. Raises BadStoredMessage."""
        return self._numbered(row.message_no, row)

    def _numbered(self, number: int, row: UnsentMessage) -> OutgoingMessage:
        data, lines = self._compressor.read(row.block, row.place)
        return OutgoingMessage(number, row.contact_id, self._reverse_path, row.address, data, lines)


def _row(mail: ReservedMail) -> UnsentMessage:
    found = mail.of_release
    assert found is not None
    assert found.block is not None
    return UnsentMessage(
        message_no=found.message_no,
        recipient_no=found.recipient_no or 0,
        contact_id=mail.contact_id,
        address=mail.address,
        size=found.size or 0,
        place=found.place_in_block or 0,
        block=found.block,
    )

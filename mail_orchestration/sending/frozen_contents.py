"""Frozen campaigns in use: read once, and composed by a process that is kept for the next mail that says the same."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property

from mail_orchestration.composing import composing, facts_of_no_mail_job
from mail_orchestration.composition.assembly import AssemblyPool
from mail_orchestration.composition.compression import Compressor
from mail_orchestration.composition.context import envelope_sender
from mail_orchestration.composition.definition import Campaign, campaign_from_files
from mail_orchestration.composition.errors import BadStoredMessage
from mail_orchestration.dispatch.frozen_campaigns import (
    FrozenCampaign,
    keep_frozen_dictionary,
    read_frozen_campaign,
)
from mail_orchestration.dispatch.unsent import UnsentMessage
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.attempts import OutgoingMessage
from mail_orchestration.sending.components import SendComponents

CONTENTS_KEPT = 4
"""Each may have a process of some 40 MB, beside the campaign's files."""


class FrozenContent:
    """One frozen campaign. Composes in a process of its own, which begins with the first mail that it is needed for."""

    def __init__(self, inst: Installation, frozen: FrozenCampaign, now: datetime) -> None:
        """Raises BadCampaign when what was frozen is no campaign any more."""
        self.campaign: Campaign = campaign_from_files(frozen.files)
        self._frozen_campaign_id = frozen.frozen_campaign_id
        self._inst = inst
        self._facts = facts_of_no_mail_job(inst, now)
        self._dictionary = frozen.dictionary
        self._pool: AssemblyPool | None = None
        self._pools = contextlib.ExitStack()
        self._components: SendComponents | None = None

    def outgoing(self, row: UnsentMessage) -> OutgoingMessage:
        """A stored message as it goes onto the wire, under its mail's number. Raises BadStoredMessage."""
        try:
            data, lines = self._compressor.read(row.block)
        except BadStoredMessage:
            raise BadStoredMessage(f"single mail {row.message_no} cannot be read as it is stored") from None
        reverse_path = envelope_sender(self._facts, self.campaign.definition)
        return OutgoingMessage(row.message_no, row.contact_id, reverse_path, row.address, data, lines)

    def components(self) -> SendComponents:
        """The campaign's own that see messages and results. Raises NotFound and ComponentFailed."""
        if self._components is None or self._components.failure is not None:
            self._components = SendComponents(self.campaign.definition.components)
        return self._components

    async def finish(self) -> None:
        """Show components what is left to be shown. Raises ComponentFailed."""
        if self._components is not None:
            await self._components.finish()

    @cached_property
    def _compressor(self) -> Compressor:
        if self._dictionary is None:
            with self._inst.database.begin() as connection:
                self._dictionary = read_frozen_campaign(connection, self._frozen_campaign_id).dictionary
        if self._dictionary is None:
            raise BadStoredMessage(f"frozen campaign {self._frozen_campaign_id} has no dictionary")
        return Compressor(self._dictionary)

    def pool(self) -> AssemblyPool:
        """The process that composes. Raises BadCampaign naming file and line."""
        while self._pool is None:
            made = self._pools.enter_context(
                composing(self._inst, self.campaign, self._facts, dictionary=self._dictionary)
            )
            if self._dictionary is None:
                # Another worker may have been first: what it has stored is read with its dictionary.
                with self._inst.database.begin() as connection:
                    self._dictionary = keep_frozen_dictionary(
                        connection, self._frozen_campaign_id, made.dictionary
                    )
            if made.dictionary == self._dictionary:
                self._pool = made
            else:
                self.end_pool()
        return self._pool

    def end_pool(self) -> None:
        """End the process. The next mail begins another one."""
        self._pool = None
        self._pools.close()


class FrozenContents:
    """The frozen campaigns that were needed last, a few at a time."""

    def __init__(self, inst: Installation) -> None:
        self._inst = inst
        self._kept: OrderedDict[int, FrozenContent] = OrderedDict()
        self._passed: list[FrozenContent] = []

    def of(self, frozen_campaign_id: int, now: datetime) -> FrozenContent:
        """The content of that number. Raises NotFound and BadCampaign."""
        found = self._kept.get(frozen_campaign_id)
        if found is None:
            with self._inst.database.begin() as connection:
                frozen = read_frozen_campaign(connection, frozen_campaign_id)
            found = self._kept[frozen_campaign_id] = FrozenContent(self._inst, frozen, now)
        self._kept.move_to_end(frozen_campaign_id)
        while len(self._kept) > CONTENTS_KEPT:
            _, oldest = self._kept.popitem(last=False)
            oldest.end_pool()
            self._passed.append(oldest)
        return found

    def used(self) -> Sequence[FrozenContent]:
        """Those at hand, and those that were until a moment ago, of which this is the last word."""
        passed, self._passed = self._passed, []
        return [*passed, *self._kept.values()]

    def close(self) -> None:
        """End the processes of all of them."""
        while self._kept:
            self._kept.popitem()[1].end_pool()

"""The processes that compose a campaign's messages, with the pages that they may need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime

from mail_orchestration.composition.assembly import AssemblyPool
from mail_orchestration.composition.context import MailJobFacts
from mail_orchestration.composition.definition import Campaign
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.model import Recipient


@contextlib.contextmanager
def composing(
    inst: Installation,
    campaign: Campaign,
    facts: MailJobFacts,
    *,
    workers: int = 1,
    dictionary: bytes | None = None,
    models: Sequence[Recipient] = (),
) -> Iterator[AssemblyPool]:
    """A pool of processes for the block, which a template without end ends but does not hold up.

    `dictionary` is what the campaign's stored messages are compressed against, once there is one; it is made after the
    shape of `models`, some of those who get them. Raises BadCampaign naming file and line.
    """
    # Half a second that mailcasters, who compose a single mail at most, need not pay.
    from mail_orchestration.egress.page_fetcher import fetching

    with (
        fetching(inst.settings.fetch_allowed_networks) as fetch_pages,
        AssemblyPool(
            campaign,
            facts,
            inst.keys,
            workers=workers,
            dictionary=dictionary,
            models=models,
            dkim_keys=inst.dkim_keys_for(campaign.definition.from_.domain),
            fetch_pages=fetch_pages,
        ) as pool,
    ):
        yield pool


def facts_of_no_mail_job(inst: Installation, now: datetime) -> MailJobFacts:
    """What messages share that belong to no mail job (previews, single mails): those of mail job 0, which never is."""
    return MailJobFacts(
        installation=inst.settings.installation,
        mail_job_id=0,
        released_at=now,
        public_base_url=inst.settings.public_base_url,
    )

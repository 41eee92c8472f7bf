"""What a template may name: the recipient's attributes, the campaign's variables, and our own links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mail_orchestration.composition.cookies import (
    Claims,
    unsubscribe_mailto,
    unsubscribe_token,
    unsubscribe_url,
)
from mail_orchestration.composition.definition import CampaignDefinition
from mail_orchestration.kernel.model import Recipient
from mail_orchestration.kernel.tokens import SigningKeys

OUR_NAMES = frozenset(
    {
        *("contact", "address", "locale", "guid", "rcp_url", "unsubscribe_url", "unsubscribe_mailto"),
        *("campaign", "mail_job_id", "released_at", "site", "view"),
    }
)
"""Names of ours, which an attribute of the same name cannot take; it stays reachable as `contact.<name>`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailJobFacts:
    """What every message of one mail job shares."""

    installation: str
    mail_job_id: int
    released_at: datetime
    """Aware. It is the `Date` of every message, so that a repeat is the same octets."""
    public_base_url: str
    """Where unsubscribe links lead, such as `https://mail.example.org`."""
    bounce_domain: str | None = None
    """Of the default envelope sender and the unsubscribe address; the domain of `from` by default."""
    site: str = "main"

    def claims(self, campaign: str, recipient: Recipient) -> Claims:
        """What this recipient's links and cookie claim."""
        return Claims(
            installation=self.installation,
            site=self.site,
            campaign=campaign,
            mail_job_id=self.mail_job_id,
            contact_id=recipient.contact_id,
            recipient_no=recipient.recipient_no,
        )


def envelope_sender(facts: MailJobFacts, definition: CampaignDefinition) -> str:
    """The reverse-path of the mail job's messages: the campaign's own, or `bounces@` the bounce domain."""
    if definition.envelope_sender is not None:
        return definition.envelope_sender.address
    return f"bounces@{facts.bounce_domain or definition.from_.domain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientLinks:
    """One recipient's ways out."""

    unsubscribe_url: str
    unsubscribe_mailto: str


def recipient_links(
    facts: MailJobFacts, definition: CampaignDefinition, recipient: Recipient, keys: SigningKeys
) -> RecipientLinks:
    """Signed links for one recipient (spec 2.3)."""
    token = unsubscribe_token(facts.claims(definition.name, recipient), keys)
    return RecipientLinks(
        unsubscribe_url=unsubscribe_url(facts.public_base_url, token),
        unsubscribe_mailto=unsubscribe_mailto(facts.bounce_domain or definition.from_.domain, token),
    )


def template_values(
    facts: MailJobFacts,
    definition: CampaignDefinition,
    recipient: Recipient,
    links: RecipientLinks,
    dated: datetime | None = None,
) -> dict[str, Any]:
    """Plain values by name, `view` being `html`. Ours win over attributes, attributes over variables.

    `dated` takes the place of the mail job's moment in a message that is composed by itself.
    """
    about: Mapping[str, Any] = {
        "address": recipient.address,
        "locale": recipient.locale,
        "guid": recipient.guid,
        "rcp_url": recipient.url,
    }
    return {
        **definition.variables,
        **recipient.attributes,
        **about,
        "contact": {**about, **recipient.attributes},
        "unsubscribe_url": links.unsubscribe_url,
        "unsubscribe_mailto": links.unsubscribe_mailto,
        "campaign": definition.name,
        "mail_job_id": facts.mail_job_id,
        "released_at": dated or facts.released_at,
        "site": facts.site,
        "view": "html",
    }

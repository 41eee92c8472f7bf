"""What single mails say: their campaigns as they are now, read once for all mails that are submitted together."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from mail_orchestration.campaigns import folder_named
from mail_orchestration.composition.checking import refuse_bad_templates
from mail_orchestration.composition.definition import Campaign, load_campaign
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.components import load_components
from mail_orchestration.kernel.errors import BadCampaign, ComponentFailed, NotFound
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.single_mailer.checking import Refused

STAGES = ("preprocess", "filter", "cookies", "compose")
"""Those of a campaign's components (spec 1.6) that see single mails: they look at recipients."""


class BadContent(Refused):
    """The campaign cannot be sent as it is."""

    def __init__(self, code: FailureCode | None, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def load_content(inst: Installation, named: str | Path, now: datetime) -> Campaign:
    """The campaign as a single mail may say it. Raises BadContent with the code under which it would fail."""
    if not isinstance(named, str | Path):
        raise BadContent(FailureCode.CAMPAIGN_NOT_LOADED, "campaign: must be a name or a folder")
    try:
        campaign = load_campaign(named if isinstance(named, Path) else folder_named(inst, named))
    except BadCampaign as error:
        raise BadContent(FailureCode.CAMPAIGN_NOT_LOADED, f"campaign: {error}") from None
    try:
        refuse_bad_templates(campaign)
    except BadCampaign as error:
        raise BadContent(FailureCode.TEMPLATE_FORMAT_EXCEPTION, f"campaign: {error}") from None
    definition = campaign.definition
    try:
        for stage in STAGES:
            load_components(definition.components, stage)
    except (NotFound, ComponentFailed) as error:
        raise BadContent(FailureCode.CUSTOM_FUNCTION_FAILED, f"campaign: {error}") from None
    if definition.expired(now):
        raise BadContent(None, f"campaign {definition.name}: expires_at has passed, so nothing of it is sent")
    return campaign


def moment_of(campaign: Campaign, due_at: datetime) -> datetime:
    """When a mail that is due then may go: not before the campaign's start (spec 3.6). Raises Refused if it expires."""
    definition = campaign.definition
    if definition.starts_at is not None:
        due_at = max(due_at, definition.starts_at)
    if definition.expired(due_at):
        raise Refused(f"at: campaign {definition.name} expires before, so nothing of it would be sent")
    return due_at


def refuse_stranger_to_test(campaign: Campaign, address: str) -> None:
    """Raise Refused for an address that is none of the test addresses of a campaign in test (spec 3.5)."""
    definition = campaign.definition
    if definition.state != "test":
        return
    if all(each.address.lower() != address.lower() for each in definition.test_addresses):
        raise Refused(f"to: campaign {definition.name} is in state test, and this is no address of its tests")

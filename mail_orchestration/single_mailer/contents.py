"""What single mails say: their campaigns as they are now, read once for all mails that are submitted together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from mail_orchestration.campaigns import folder_named, folder_of
from mail_orchestration.composition.checking import refuse_bad_templates
from mail_orchestration.composition.definition import Campaign, load_campaign
from mail_orchestration.dispatch.campaigns import CampaignState
from mail_orchestration.dispatch.frozen_campaigns import campaign_of_single_mails, freeze_campaign
from mail_orchestration.dispatch.single_mails import SingleMailContent
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.components import load_components
from mail_orchestration.kernel.errors import BadCampaign, ComponentFailed, NotFound
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.single_mailer.checking import Refused


class BadContent(Refused):
    """The campaign cannot be sent as it is."""

    def __init__(self, code: FailureCode | None, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Content:
    """A campaign as it is in its folder now."""

    folder: Path
    campaign: Campaign


def load_content(inst: Installation, named: str | Path, now: datetime) -> Content:
    """The campaign as a single mail may say it. Raises BadContent with the code under which it would fail."""
    if not isinstance(named, str | Path):
        raise BadContent(FailureCode.CAMPAIGN_NOT_LOADED, "campaign: must be a name or a folder")
    try:
        folder = named if isinstance(named, Path) else folder_named(inst, named)
        campaign = load_campaign(folder)
    except BadCampaign as error:
        raise BadContent(FailureCode.CAMPAIGN_NOT_LOADED, f"campaign: {error}") from None
    try:
        refuse_bad_templates(campaign)
    except BadCampaign as error:
        raise BadContent(FailureCode.TEMPLATE_FORMAT_EXCEPTION, f"campaign: {error}") from None
    definition = campaign.definition
    try:
        for stage in definition.components:
            load_components(definition.components, stage)
    except (NotFound, ComponentFailed) as error:
        raise BadContent(FailureCode.CUSTOM_FUNCTION_FAILED, f"campaign: {error}") from None
    if definition.expired(now):
        raise BadContent(None, f"campaign {definition.name}: expires_at has passed, so nothing of it is sent")
    return Content(folder, campaign)


def freeze_content(
    connection: Connection, inst: Installation, content: Content, now: datetime
) -> SingleMailContent:
    """Freeze what the campaign says; it is neither paused, resumed nor deleted until the transaction ends.

    Raises Refused for a deleted one.
    """
    definition, digest = content.campaign.definition, bytes.fromhex(content.campaign.digest)
    place = folder_of(inst, content.folder)
    campaign_id, state = campaign_of_single_mails(
        connection,
        inst.installation_id,
        name=definition.name,
        state=definition.state,
        digest=digest,
        folder=place.path,
        folder_host=place.host,
        folder_inode=place.inode,
        now=now,
    )
    if state is CampaignState.DELETED:
        raise Refused(f"campaign: {definition.name} is deleted")
    return SingleMailContent(
        campaign_id=campaign_id,
        frozen_campaign_id=freeze_campaign(
            connection, campaign_id, digest=digest, files=content.campaign.files, now=now
        ),
        topic=definition.topic or "",
        is_transactional=definition.transactional,
        expires_at=definition.expires_at,
        is_paused=state is CampaignState.PAUSED,
    )


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

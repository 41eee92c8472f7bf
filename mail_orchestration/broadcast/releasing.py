"""Audiences are filled, and a campaign is released to them: frozen as it is, and a mail job made of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection

from mail_orchestration.audience.described_source import source_of_settings
from mail_orchestration.audience.importing import ImportSummary, import_audience
from mail_orchestration.audience.members import find_audiences
from mail_orchestration.audience.sources import DataFrameSource, Source
from mail_orchestration.campaigns import folder_of
from mail_orchestration.composition.checking import refuse_bad_templates
from mail_orchestration.composition.definition import Campaign, load_campaign
from mail_orchestration.composition.frequency_checking import refuse_rules_beyond_the_log
from mail_orchestration.dispatch import releases
from mail_orchestration.dispatch.campaigns import CampaignState, known_campaign, stop_what_says_else
from mail_orchestration.dispatch.mail_jobs import create_mail_job, transition
from mail_orchestration.dispatch.releases import Release
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.clock import day_of
from mail_orchestration.kernel.components import load_components
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.errors import BadCampaign
from mail_orchestration.kernel.states import MailJobState

_TEST_ADDRESS = "address_of_this_test"

_log = logging.getLogger(__name__)


def fill_audience(
    inst: Installation,
    name: str,
    *,
    source: Source | None = None,
    mode: Literal["append", "replace"] | None = None,
    now: datetime,
    progress: Callable[[int], None] | None = None,
) -> ImportSummary:
    """Fill an audience from `source`, or from where the settings say (spec 1.2)."""
    if source is None:
        described = inst.settings.audience(name)
        source = source_of_settings(described, own_url=inst.database.url)
        mode = mode or described.mode
    return import_audience(
        inst.database,
        inst.installation_id,
        name,
        source,
        mode=mode or "append",
        now=now,
        progress=progress,
    )


def release_campaign(
    inst: Installation,
    folder: Path,
    *,
    now: datetime,
    request_key: str | None = None,
    priority: int | None = None,
    occurrence: str = "",
    again: bool = False,
    dry_run: bool = False,
) -> Release:
    """Freeze a campaign as it is in its folder and make a mail job of it, in state QUEUING (spec 2.1).

    Whoever asks twice under one `request_key` gets the same release. Within the history the same content goes once to a
    contact for each `occurrence`, but with `again` to everybody (spec 6.6). A campaign in state test goes to its test
    addresses only (spec 3.5). Mail jobs of the campaign that still wait and say something else are STOPPED (spec 3.4);
    a paused campaign stays paused. Raises BadCampaign, also for a template that does not compile, for rules of its own
    that the daily log is too short for, and when it names an audience that nobody has filled: a misspelt one would send
    to nobody, or, excluded, to too many. Raises NotFound for a component that there is not.

    A `dry_run` is never queued, is carried on by its caller (see `broadcast.dry_run`), and changes nothing else.
    """
    campaign = load_campaign(folder)
    refuse_bad_templates(campaign)
    refuse_rules_beyond_the_log(campaign, inst.settings.retention.daily_log_days)
    definition = campaign.definition
    for stage in definition.components:
        load_components(definition.components, stage)
    if definition.expired(now):
        raise BadCampaign(f"campaign {definition.name}: expires_at has passed, so nothing of it is sent")
    audiences, excluded = definition.audiences, definition.exclude
    frequency = definition.frequency_of_release
    if not audiences and definition.state != "test":
        raise BadCampaign("campaign.yaml: audiences: a release needs at least one")
    if definition.state == "test":
        audiences, excluded = [_fill_test_audience(inst, campaign, now)], []
    scoped_key = None if request_key is None else f"{inst.settings.installation}/{request_key}"
    with inst.database.begin() as connection:
        if scoped_key is not None:
            found = releases.release_of_request(connection, scoped_key)
            if found is not None:
                return releases.read_release(connection, inst.installation_id, found)
        place = folder_of(inst, folder)
        digest = bytes.fromhex(campaign.digest)
        campaign_id, state = None, None
        if dry_run:
            campaign_id = known_campaign(connection, inst.installation_id, definition.name)
        if campaign_id is None:
            campaign_id, state = releases.register_campaign(
                connection,
                inst.installation_id,
                name=definition.name,
                state=definition.state,
                digest=digest,
                now=now,
                folder=place.path,
                folder_host=place.host,
                folder_inode=place.inode,
            )
        release_id = create_mail_job(
            connection, inst.installation_id, definition.priority if priority is None else priority, now
        )
        releases.insert_release(
            connection,
            release_id,
            campaign_id=campaign_id,
            released_at=now,
            released_on=day_of(now, inst.settings.zone),
            request_key=scoped_key,
            files=releases.freeze_files(connection, campaign.files),
            digest=digest,
            content_digest=bytes.fromhex(campaign.content_digest),
            occurrence=occurrence,
            again=again,
            topic=definition.topic or "",
            starts_at=definition.starts_at,
            expires_at=definition.expires_at,
            canary_messages=None if definition.canary is None else definition.canary.messages,
            canary_most_rejected=None
            if definition.canary is None
            else definition.canary.max_rejected_percentage,
            is_dry_run=dry_run,
            frequency_policy=frequency.policy,
            frequency_rules=frequency.own_rules,
            shelf_life_days=frequency.shelf_life_days,
            counts=inst.settings.frequency.count if frequency.count is None else frequency.count,
            audience_ids=_known_audiences(connection, inst, "audiences", audiences),
            excluded_audience_ids=_known_audiences(connection, inst, "exclude", excluded),
        )
        stopped = []
        if not dry_run:
            stopped = stop_what_says_else(
                connection,
                campaign_id,
                digest,
                reason=f"the campaign was edited while it waited, and released again as mail job {release_id}",
                now=now,
            )
        made = releases.read_release(connection, inst.installation_id, release_id)
        crash_point("release_frozen")
    crash_point("release_committed")
    if stopped:
        numbers = ", ".join(map(str, stopped))
        _log.warning("campaign %s was edited: mail job %s, which waited, is STOPPED", made.campaign, numbers)
    if state == CampaignState.PAUSED:
        _log.warning(
            "campaign %s is paused: mail job %d waits until it is resumed", made.campaign, release_id
        )
    return made


def release_again(inst: Installation, release_id: int, *, now: datetime) -> Release:
    """Take an INTERRUPTED mail job up again (spec 1.3). Raises StateConflict in another state."""
    with inst.database.begin() as connection:
        releases.read_release(connection, inst.installation_id, release_id)
        transition(
            connection, release_id, MailJobState.INTERRUPTED, MailJobState.QUEUING, "released again", now
        )
        releases.forget_resolving(connection, release_id)
        return releases.read_release(connection, inst.installation_id, release_id)


def _known_audiences(connection: Connection, inst: Installation, key: str, names: list[str]) -> list[int]:
    found = find_audiences(connection, inst.installation_id, names)
    if unknown := [name for name in names if name not in found]:
        raise BadCampaign(
            f"campaign.yaml: {key}: there is no audience named {', '.join(unknown)}; import it first"
        )
    return [found[name] for name in dict.fromkeys(names)]


def _fill_test_audience(inst: Installation, campaign: Campaign, now: datetime) -> str:
    """An audience of the campaign's test addresses, each with the sample contact's attributes."""
    import pandas as pd  # half a second that only tests pay

    definition = campaign.definition
    name = f"{definition.name}:test"  # the colon: no audience of the settings has this name
    # A column that no sample contact has: else the sample's own `email` would be written to.
    rows = [{**definition.sample_contact, _TEST_ADDRESS: each.address} for each in definition.test_addresses]
    source = DataFrameSource(frame=pd.DataFrame(rows), address_column=_TEST_ADDRESS, label="test_addresses")
    filled = import_audience(inst.database, inst.installation_id, name, source, now=now, mode="replace")
    if filled.rows_rejected:
        raise BadCampaign(
            f"campaign.yaml: test_addresses: {filled.rows_rejected} of them cannot be written to "
            f"({', '.join(sorted(filled.by_reason))})"
        )
    return name

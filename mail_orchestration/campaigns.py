"""Pausing, resuming and deleting campaigns, and noticing that one was edited while a mail job of it waits (spec 3.4).

An edit becomes known when the campaign is released again, and when the folder that it was released from is looked at:
by the processes Assemble, Queue for delivery and Clean delivery queue, on a host that has this very folder.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from mail_orchestration.composition.definition import CAMPAIGN_FILE
from mail_orchestration.composition.edits import Edit, difference
from mail_orchestration.dispatch import campaigns
from mail_orchestration.dispatch.campaigns import CampaignChange, CampaignListed, WaitingRelease
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.clock import utc_now
from mail_orchestration.kernel.errors import BadCampaign

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignFolder:
    """Where a campaign was released from, and what tells that very folder from one of the same name elsewhere."""

    path: str
    """Relative to the settings' folder, so that it means the same on every host of the installation."""
    host: str
    inode: int


def folder_of(inst: Installation, folder: Path) -> CampaignFolder:
    """What a release remembers of its campaign's folder."""
    return CampaignFolder(
        path=Path(os.path.relpath(folder, inst.settings.folder)).as_posix(),
        host=socket.gethostname(),
        inode=folder.stat().st_ino,
    )


def folder_named(inst: Installation, name: str) -> Path:
    """The campaign's folder of that name right under campaigns_dir. Raises BadCampaign listing the names there are.

    For names that come from elsewhere: none of them leads to another folder.
    """
    campaigns_dir = inst.settings.campaigns_dir
    known = sorted(file.parent.name for file in campaigns_dir.glob(f"*/{CAMPAIGN_FILE}"))
    if name not in known:
        raise BadCampaign(
            f"there is no campaign {name!r} in {campaigns_dir} (there are: {', '.join(known) or 'none'}); a campaign "
            f"is a folder there with a {CAMPAIGN_FILE}"
        )
    return campaigns_dir / name


def list_campaigns(inst: Installation) -> list[CampaignListed]:
    """The campaigns that were ever released, by name."""
    with inst.database.begin() as connection:
        return campaigns.campaigns(connection, inst.installation_id)


def pause(inst: Installation, name: str) -> CampaignChange:
    """Hold a campaign's mail jobs: nothing of them is begun. What a mailcaster has in hand it finishes.

    Assembly and queueing go on, since nothing is sent by them. Raises NotFound, StateConflict.
    """
    with inst.database.begin() as connection:
        return campaigns.pause_campaign(connection, inst.installation_id, name)


def resume(inst: Installation, name: str) -> CampaignChange:
    """Let a paused campaign go on, or bring back a deleted one that never was released.

    Raises NotFound, StateConflict.
    """
    with inst.database.begin() as connection:
        return campaigns.resume_campaign(connection, inst.installation_id, name)


def delete(inst: Installation, name: str, *, now: datetime) -> CampaignChange:
    """Make a campaign's mail jobs that wait STOPPED, for good. What has begun goes on as it was frozen.

    The folder is not touched, and what was sent stays to be read; a new release makes it live again. Raises NotFound,
    StateConflict.
    """
    with inst.database.begin() as connection:
        return campaigns.delete_campaign(connection, inst.installation_id, name, now)


def stop_if_edited(inst: Installation, release_id: int, *, now: datetime) -> Edit:
    """Look at the folder of a mail job's campaign, and make the mail job STOPPED if it waits and an edit was made.

    NONE also when the mail job waits no more, and when the folder is not here or cannot be read.
    """
    with inst.database.begin() as connection:
        waiting = campaigns.waiting_releases(connection, inst.installation_id, only=release_id)
        for release in waiting:
            edit = _look(inst, release)
            if edit is Edit.MADE and not _stop(connection, release, now):
                return Edit.NONE
            return edit
    return Edit.NONE


def stop_edited_and_deleted(inst: Installation, *, now: datetime) -> list[int]:
    """Make every waiting mail job whose campaign was edited or deleted STOPPED, and return their numbers."""
    with inst.database.begin() as connection:
        stopped = campaigns.stop_waiting_of_deleted(connection, inst.installation_id, now)
        waiting = campaigns.waiting_releases(connection, inst.installation_id)
    for release in waiting:
        # Files are read without a transaction open.
        if _look(inst, release) is Edit.MADE:
            with inst.database.begin() as connection:
                if _stop(connection, release, now):
                    stopped.append(release.release_id)
    return sorted(stopped)


def _look(inst: Installation, release: WaitingRelease) -> Edit:
    folder = inst.settings.folder / release.folder
    try:
        inode = folder.stat().st_ino
    except OSError:
        return Edit.NONE
    # A folder of the same name on another host, such as one whose checkout is older, is not the one that was edited.
    if release.folder_host != socket.gethostname() and release.folder_inode != inode:
        return Edit.NONE
    found = difference(folder, release.files)
    # This host's clock, as the times of files are its own.
    return Edit.NONE if found is None else found.edit(utc_now())


def _stop(connection: Connection, release: WaitingRelease, now: datetime) -> bool:
    reason = "the campaign was edited while it waited; release it again"
    is_stopped = campaigns.stop_edited(connection, release.release_id, reason=reason, now=now)
    if is_stopped:
        _log.warning("campaign %s was edited: mail job %d is STOPPED", release.campaign, release.release_id)
    return is_stopped

"""Campaigns that are paused, edited or deleted, and what becomes of their mail jobs (spec 3.4).

A paused campaign holds all its mail jobs: none is begun, none is recovered, and a parent gets no further child. What a
mailcaster has in hand it finishes. A campaign that is edited or deleted makes the mail jobs that wait STOPPED; one that
has begun goes on with what it froze (spec 2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row

from mail_orchestration.dispatch.held_mails import BY_ITSELF, HeldMailEnding, delete_held_mails
from mail_orchestration.dispatch.resting import rest_loose_mails, wake_loose_mails
from mail_orchestration.kernel.errors import NotFound, StateConflict
from mail_orchestration.kernel.frequency_lock import lock_frequency
from mail_orchestration.kernel.loose_mail_states import LooseMailState
from mail_orchestration.kernel.near_names import suggestion
from mail_orchestration.kernel.statements import STATEMENTS


class CampaignState(StrEnum):
    """What a campaign is."""

    TEST = "test"
    """Set by a release: it goes to its test addresses only (spec 3.5)."""
    LIVE = "live"
    """Set by a release, or by resuming."""
    PAUSED = "paused"
    """Set by the operator; left by resuming or deleting. A release leaves it paused."""
    DELETED = "deleted"
    """Set by the operator; left by a new release, or by resuming one that never was released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignListed:
    """One campaign that was ever released."""

    name: str
    state: CampaignState
    changed_at: datetime
    """When it was last released with another content than before."""
    folder: str | None
    """Where it was released from last, relative to the settings' folder."""
    released_at: datetime | None
    waiting: int
    """Mail jobs of which nothing was taken yet."""
    begun: int
    """Mail jobs that were begun and have not ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignChange:
    """What became of a campaign that was to be paused, resumed or deleted."""

    name: str
    left: CampaignState
    entered: CampaignState
    """The same as `left` when there was nothing to do."""
    stopped: tuple[int, ...] = ()
    """Mail jobs that waited and are STOPPED now."""
    begun: tuple[int, ...] = ()
    """Mail jobs that were begun and have not ended."""
    held: int = 0
    """Mails that waited in the frequency queue, and do no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRelease:
    """A mail job that waits, and where its campaign stands."""

    release_id: int
    campaign: str
    files: Mapping[str, bytes]
    """Relative path → SHA-256 of what was frozen."""
    folder: str
    folder_host: str | None
    folder_inode: int | None


def campaigns(connection: Connection, installation_id: int) -> list[CampaignListed]:
    """The campaigns of an installation by name."""
    rows = connection.execute(STATEMENTS["list_campaigns"], {"installation_id": installation_id})
    return [CampaignListed(**{**row._mapping, "state": CampaignState(row.state)}) for row in rows]


def campaign_number(connection: Connection, installation_id: int, name: str | None) -> int | None:
    """The number of a campaign by its name; None for None, which is all of them. Raises NotFound naming near ones."""
    if name is None:
        return None
    found = known_campaign(connection, installation_id, name)
    if found is None:
        raise _unknown(connection, installation_id, name)
    return found


def known_campaign(connection: Connection, installation_id: int, name: str) -> int | None:
    """The number of a campaign of which something was released or submitted at some time."""
    binds = {"installation_id": installation_id, "name": name}
    found: int | None = connection.execute(STATEMENTS["find_campaign_by_name"], binds).scalar_one_or_none()
    return found


def pause_campaign(connection: Connection, installation_id: int, name: str) -> CampaignChange:
    """test, live → paused, and its loose mails with it. Raises NotFound, and StateConflict for a deleted one."""
    campaign = _locked(connection, installation_id, name)
    if campaign.state == CampaignState.DELETED:
        raise StateConflict(f"campaign {name} is deleted: its mail jobs that waited were stopped")
    rest_loose_mails(connection, installation_id, LooseMailState.PAUSED, campaign_id=campaign.campaign_id)
    return _changed(
        connection, campaign, name, {CampaignState.TEST, CampaignState.LIVE}, CampaignState.PAUSED
    )


def resume_campaign(connection: Connection, installation_id: int, name: str) -> CampaignChange:
    """paused → what it was. Also deleted → what it was, where it never was released: there is no other way back.

    Raises NotFound, and StateConflict for a deleted one that was released, which only a release revives.
    """
    campaign = _locked(connection, installation_id, name)
    if campaign.state == CampaignState.DELETED and campaign.was_released:
        raise StateConflict(f"campaign {name} is deleted: release it to have it again")
    wake_loose_mails(connection, installation_id, campaign_id=campaign.campaign_id)
    leaves = {CampaignState.PAUSED, CampaignState.DELETED}
    return _changed(connection, campaign, name, leaves, CampaignState(campaign.resumes_as))


def delete_campaign(connection: Connection, installation_id: int, name: str, now: datetime) -> CampaignChange:
    """test, live, paused → deleted, its mail jobs and its loose mails that wait → STOPPED. What has begun goes on.

    Its mails that wait in the frequency queue are not sent any more.

    Raises NotFound, and StateConflict for a paused one with mail jobs that have begun: deleting it would send them.
    """
    # Before any row: a release of it that passes the gate just now holds this lock, and its mail job is next.
    lock_frequency(connection, installation_id)
    campaign = _locked(connection, installation_id, name)
    begun = _begun(connection, campaign.campaign_id)
    if campaign.state == CampaignState.PAUSED and begun:
        numbers = ", ".join(map(str, begun))
        raise StateConflict(
            f"campaign {name} is paused and holds mail jobs that have begun ({numbers}), which would go on: "
            "stop them or resume the campaign first"
        )
    why = "the campaign was deleted while it waited"
    stopped = _stop_waiting(connection, campaign.campaign_id, None, why, now)
    rest_loose_mails(
        connection, installation_id, LooseMailState.STOPPED, campaign_id=campaign.campaign_id, why=why
    )
    held = delete_held_mails(
        connection,
        installation_id,
        campaign_id=campaign.campaign_id,
        ending=HeldMailEnding.CAMPAIGN_DELETED,
        now=now,
        ended_by=BY_ITSELF,
    )
    return _changed(
        connection,
        campaign,
        name,
        {CampaignState.TEST, CampaignState.LIVE, CampaignState.PAUSED},
        CampaignState.DELETED,
        stopped=tuple(stopped),
        held=held,
    )


def stop_what_says_else(
    connection: Connection, campaign_id: int, digest: bytes, *, reason: str, now: datetime
) -> list[int]:
    """The campaign was released as `digest`: its mail jobs that wait and say something else → STOPPED."""
    return _stop_waiting(connection, campaign_id, digest, reason, now)


def stop_edited(connection: Connection, mail_job_id: int, *, reason: str, now: datetime) -> bool:
    """Make a mail job STOPPED, as its campaign was edited. False when it waits no more."""
    binds = {"mail_job_id": mail_job_id, "reason": reason, "now": now}
    return connection.scalar(STATEMENTS["stop_edited"], binds) is not None


def stop_waiting_of_deleted(connection: Connection, installation_id: int, now: datetime) -> list[int]:
    """Mail jobs that wait although their campaign is deleted → STOPPED."""
    stopped = connection.scalars(
        STATEMENTS["stop_waiting_of_deleted"],
        {"installation_id": installation_id, "reason": "the campaign is deleted", "now": now},
    )
    return sorted(stopped)


def waiting_releases(
    connection: Connection, installation_id: int, *, only: int | None = None
) -> list[WaitingRelease]:
    """Mail jobs that wait and whose campaign's folder is known; with `only` at most that one."""
    rows = connection.execute(
        STATEMENTS["find_waiting_releases"], {"installation_id": installation_id, "only": only}
    )
    return [
        WaitingRelease(
            release_id=row.release_id,
            campaign=row.campaign,
            files={path: bytes.fromhex(sha256) for path, sha256 in row.files.items()},
            folder=row.folder,
            folder_host=row.folder_host,
            folder_inode=None if row.folder_inode is None else int(row.folder_inode),
        )
        for row in rows
    ]


def _locked(connection: Connection, installation_id: int, name: str) -> Row[Any]:
    found = connection.execute(
        STATEMENTS["lock_campaign"], {"installation_id": installation_id, "name": name}
    ).one_or_none()
    if found is None:
        raise _unknown(connection, installation_id, name)
    return found


def _unknown(connection: Connection, installation_id: int, name: str) -> NotFound:
    known = connection.scalars(STATEMENTS["list_campaign_names"], {"installation_id": installation_id}).all()
    why = "nothing of it was released or submitted in this installation"
    return NotFound(f"there is no campaign {name!r}: {why}{suggestion(name, known)}")


def _stop_waiting(
    connection: Connection, campaign_id: int, digest: bytes | None, reason: str, now: datetime
) -> list[int]:
    stopped = connection.scalars(
        STATEMENTS["stop_waiting"],
        {"campaign_id": campaign_id, "digest": digest, "reason": reason, "now": now},
    )
    return sorted(stopped)


def _begun(connection: Connection, campaign_id: int) -> tuple[int, ...]:
    return tuple(connection.scalars(STATEMENTS["begun_mail_jobs"], {"campaign_id": campaign_id}))


def _changed(
    connection: Connection,
    campaign: Row[Any],
    name: str,
    leaves: set[CampaignState],
    enters: CampaignState,
    stopped: tuple[int, ...] = (),
    held: int = 0,
) -> CampaignChange:
    left = CampaignState(campaign.state)
    entered = connection.scalar(
        STATEMENTS["change_campaign_state"],
        {"campaign_id": campaign.campaign_id, "leaves": sorted(leaves), "enters": enters.value},
    )
    return CampaignChange(
        name=name,
        left=left,
        entered=CampaignState(entered or left),
        stopped=stopped,
        begun=_begun(connection, campaign.campaign_id),
        held=held,
    )

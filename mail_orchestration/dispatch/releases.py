"""Releases: what was frozen when a campaign became a mail job, and which releases wait for what (spec 2.1, 3.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

import orjson
from sqlalchemy import Connection

from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.frequency import CampaignPolicy, Rule, rules_of_document
from mail_orchestration.kernel.partitions import ensure_day
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One release of a campaign: its mail job has the same number."""

    release_id: int
    campaign: str
    state: MailJobState
    reason: str
    """Why the mail job is in this state, where that needs saying; ''."""
    released_at: datetime
    released_on: date
    """The day, in the installation's time zone, whose partitions hold all that belongs to the release."""
    files: Mapping[str, bytes]
    """Relative path → SHA-256 of the frozen content."""
    occurrence: str
    """What it was made for, where the same content goes out more than once on purpose, such as a day; ''."""
    again: bool
    """Whether it goes also to those who got the same content lately: the operator said so (spec 6.6)."""
    topic: str
    """What its recipients may have opted out of; '' is everything."""
    starts_at: datetime | None
    expires_at: datetime | None
    is_dry_run: bool
    frequency_policy: CampaignPolicy
    frequency_rules: tuple[Rule, ...] | None
    """They hold in place of the policy's; None: the policy's."""
    shelf_life_days: int | None
    """How long a mail of it that is held waits; None: as the policy says."""
    counts: bool
    """Whether its mails count for the frequency policy."""
    held_from: int | None
    """The release in which the mails of this one were held, where it sends held mails."""
    audience_ids: tuple[int, ...]
    excluded_audience_ids: tuple[int, ...]
    resolved_at: datetime | None
    audience_rows: int | None
    duplicates: int | None
    recipient_count: int | None
    assembled_up_to: int
    """The last recipient that assembly has dealt with."""
    assembled_at: datetime | None
    message_count: int
    bypassed_count: int
    dictionary: bytes | None
    """SHA-256 of the dictionary that its messages are compressed against."""
    reported_at: datetime | None


def freeze_files(connection: Connection, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Keep the files under their hashes and return path → SHA-256. The same content is kept once for all releases."""
    return {path: freeze_content(connection, content) for path, content in files.items()}


def freeze_content(connection: Connection, content: bytes) -> bytes:
    """Keep one content and return its SHA-256."""
    sha256 = hashlib.sha256(content).digest()
    connection.execute(STATEMENTS["freeze_content"], {"sha256": sha256, "bytes": content})
    return sha256


def read_files(connection: Connection, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The frozen contents, by path. Raises NotFound naming the path whose content is gone."""
    hashes = sorted(set(files.values()))
    rows = connection.execute(STATEMENTS["read_content"], {"hashes": hashes})
    contents = {bytes(row.sha256): bytes(row.bytes) for row in rows}
    for path, sha256 in files.items():
        if sha256 not in contents:
            raise NotFound(f"the frozen content of {path} is not in the database")
    return {path: contents[sha256] for path, sha256 in files.items()}


def register_campaign(
    connection: Connection,
    installation_id: int,
    *,
    name: str,
    state: str,
    digest: bytes,
    now: datetime,
    folder: str | None = None,
    folder_host: str | None = None,
    folder_inode: int | None = None,
) -> tuple[int, str]:
    """Make the campaign known by name, or note what it is now. Returns its number and its state: a paused one stays so.

    `folder` is where it is released from, relative to the settings' folder. The campaign is locked until the
    transaction ends.
    """
    found = connection.execute(
        STATEMENTS["register_campaign"],
        {
            "installation_id": installation_id,
            "name": name,
            "state": state,
            "digest": digest,
            "now": now,
            "folder": folder,
            "folder_host": folder_host,
            "folder_inode": folder_inode,
        },
    ).one()
    return found.campaign_id, found.state


def release_of_request(connection: Connection, request_key: str) -> int | None:
    """The release already made under this key.

    Locks the key until the transaction ends, so that two cannot both find none.
    """
    connection.execute(STATEMENTS["lock_release_request"], {"request_key": request_key})
    found: int | None = connection.execute(
        STATEMENTS["release_of_request"], {"request_key": request_key}
    ).scalar()
    return found


def insert_release(
    connection: Connection,
    release_id: int,
    *,
    campaign_id: int,
    released_at: datetime,
    released_on: date,
    request_key: str | None,
    files: Mapping[str, bytes],
    digest: bytes,
    content_digest: bytes,
    occurrence: str,
    again: bool,
    topic: str,
    starts_at: datetime | None,
    expires_at: datetime | None,
    canary_messages: int | None = None,
    canary_most_rejected: float | None = None,
    is_dry_run: bool = False,
    frequency_policy: CampaignPolicy,
    frequency_rules: Sequence[Rule] | None,
    shelf_life_days: int | None,
    counts: bool,
    audience_ids: Sequence[int],
    excluded_audience_ids: Sequence[int],
) -> None:
    """Freeze a release and make its day's partitions. `release_id` is its mail job, created before."""
    ensure_day(connection, released_on)
    connection.execute(
        STATEMENTS["insert_release"],
        {
            "release_id": release_id,
            "campaign_id": campaign_id,
            "released_at": released_at,
            "released_on": released_on,
            "request_key": request_key,
            "files": orjson.dumps({path: sha256.hex() for path, sha256 in files.items()}).decode(),
            "digest": digest,
            "content_digest": content_digest,
            "occurrence": occurrence,
            "again": again,
            "topic": topic,
            "starts_at": starts_at,
            "expires_at": expires_at,
            "canary_messages": canary_messages,
            "canary_most_rejected": None
            if canary_most_rejected is None
            else Decimal(str(canary_most_rejected)),
            "is_dry_run": is_dry_run,
            "frequency_policy": frequency_policy,
            "frequency_rules": None if frequency_rules is None else orjson.dumps(frequency_rules).decode(),
            "shelf_life_days": shelf_life_days,
            "counts": counts,
            "audience_ids": list(audience_ids),
            "excluded_audience_ids": list(excluded_audience_ids),
        },
    )


def read_release(connection: Connection, installation_id: int, release_id: int) -> Release:
    """One release of this installation. Raises NotFound."""
    row = connection.execute(
        STATEMENTS["read_release"], {"release_id": release_id, "installation_id": installation_id}
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no release {release_id} in this installation")
    values = dict(row._mapping)
    values["files"] = {path: bytes.fromhex(sha256) for path, sha256 in values["files"].items()}
    values["state"] = MailJobState(values["state"])
    values["frequency_policy"] = CampaignPolicy(values["frequency_policy"])
    if values["frequency_rules"] is not None:
        values["frequency_rules"] = rules_of_document(values["frequency_rules"])
    values["audience_ids"] = tuple(values["audience_ids"])
    values["excluded_audience_ids"] = tuple(values["excluded_audience_ids"])
    values["dictionary"] = None if values["dictionary"] is None else bytes(values["dictionary"])
    return Release(**values)


def releases_to_assemble(connection: Connection, installation_id: int) -> list[int]:
    """Released and not assembled yet, most important first."""
    rows = connection.execute(STATEMENTS["releases_to_assemble"], {"installation_id": installation_id})
    return list(rows.scalars())


def releases_to_queue(connection: Connection, installation_id: int, now: datetime) -> list[int]:
    """Assembled, not queued yet, and their start time has come."""
    rows = connection.execute(
        STATEMENTS["releases_to_queue"], {"installation_id": installation_id, "now": now}
    )
    return list(rows.scalars())


def releases_to_report(connection: Connection, installation_id: int) -> list[int]:
    """Ended and without a report."""
    rows = connection.execute(STATEMENTS["releases_to_report"], {"installation_id": installation_id})
    return list(rows.scalars())


def mark_reported(connection: Connection, release_id: int, now: datetime) -> None:
    """Note that the report of an ended mail job is written; one that has not ended is left to be reported."""
    connection.execute(STATEMENTS["mark_reported"], {"release_id": release_id, "now": now})


def stop_cut_off_dry_runs(connection: Connection, now: datetime) -> list[int]:
    """Make dry runs of more than a day ago that never came to their end STOPPED, and return their numbers."""
    binds = {"reason": "a dry run that was cut off", "before": now - timedelta(days=1), "now": now}
    return list(connection.execute(STATEMENTS["stop_cut_off_dry_runs"], binds).scalars())


def forget_resolving(connection: Connection, release_id: int) -> None:
    """Let dedup begin anew after it was cut off."""
    connection.execute(STATEMENTS["forget_resolving"], {"release_id": release_id})


def keep_dictionary(connection: Connection, release_id: int, dictionary: bytes, now: datetime) -> None:
    """Keep the dictionary of a release that has none yet."""
    sha256 = freeze_content(connection, dictionary)
    connection.execute(
        STATEMENTS["keep_dictionary"], {"release_id": release_id, "sha256": sha256, "now": now}
    )


def try_lock_assembly(connection: Connection, release_id: int) -> bool:
    """Take the session lock under which a release is assembled; False when another session holds it."""
    return bool(connection.execute(STATEMENTS["try_lock_assembly"], {"release_id": release_id}).scalar_one())


def assembly_so_far(connection: Connection, release: Release) -> tuple[int, int]:
    """How many recipients there are to assemble in all, and how many of them could not be composed so far."""
    row = connection.execute(
        STATEMENTS["assembly_so_far"],
        {"release_id": release.release_id, "released_on": release.released_on},
    ).one()
    return row.to_assemble, row.failed

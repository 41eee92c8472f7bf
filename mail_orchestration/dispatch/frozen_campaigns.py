"""What campaigns said when single mails of them were submitted (spec 7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import orjson
from sqlalchemy import Connection

from mail_orchestration.dispatch.campaigns import CampaignState
from mail_orchestration.dispatch.releases import freeze_content, freeze_files, read_files
from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.statements import STATEMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenCampaign:
    """A campaign's content as it was."""

    frozen_campaign_id: int
    campaign_id: int
    files: Mapping[str, bytes]
    """Relative path → content."""
    dictionary: bytes | None
    """What messages composed of it are compressed against; None before the first one was composed."""


def campaign_of_single_mails(
    connection: Connection,
    installation_id: int,
    *,
    name: str,
    state: str,
    digest: bytes,
    folder: str,
    folder_host: str,
    folder_inode: int,
    now: datetime,
) -> tuple[int, CampaignState]:
    """The campaign's number and its state, which stays as it is until the transaction ends.

    One that was never released becomes known, in `state`; the rest is as for `releases.register_campaign`.
    """
    known = {"installation_id": installation_id, "name": name}
    while (found := connection.execute(STATEMENTS["find_single_mail_campaign"], known).one_or_none()) is None:
        binds = {
            **known,
            "state": state,
            "digest": digest,
            "folder": folder,
            "folder_host": folder_host,
            "folder_inode": folder_inode,
            "now": now,
        }
        connection.execute(STATEMENTS["insert_single_mail_campaign"], binds)
    return found.campaign_id, CampaignState(found.state)


def freeze_campaign(
    connection: Connection, campaign_id: int, *, digest: bytes, files: Mapping[str, bytes], now: datetime
) -> int:
    """Keep the campaign's files and return their number. The same content is kept once, whoever freezes it first."""
    known = {"campaign_id": campaign_id, "digest": digest}
    while (found := connection.scalar(STATEMENTS["find_frozen_campaign"], known)) is None:
        hashes = {path: sha256.hex() for path, sha256 in freeze_files(connection, files).items()}
        binds = {**known, "files": orjson.dumps(hashes).decode(), "now": now}
        connection.execute(STATEMENTS["insert_frozen_campaign"], binds)
    return int(found)


def read_frozen_campaign(connection: Connection, frozen_campaign_id: int) -> FrozenCampaign:
    """All that was frozen. Raises NotFound, also for a file whose content is gone."""
    row = connection.execute(
        STATEMENTS["read_frozen_campaign"], {"frozen_campaign_id": frozen_campaign_id}
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no frozen campaign {frozen_campaign_id}")
    dictionary = None if row.dictionary is None else _content(connection, bytes(row.dictionary))
    return FrozenCampaign(
        frozen_campaign_id=row.frozen_campaign_id,
        campaign_id=row.campaign_id,
        files=read_files(connection, {path: bytes.fromhex(sha256) for path, sha256 in row.files.items()}),
        dictionary=dictionary,
    )


def keep_frozen_dictionary(connection: Connection, frozen_campaign_id: int, dictionary: bytes) -> bytes:
    """Keep what messages of it are compressed against. Returns what was kept: another worker's, if that came first."""
    sha256 = freeze_content(connection, dictionary)
    kept = connection.execute(
        STATEMENTS["keep_frozen_dictionary"], {"frozen_campaign_id": frozen_campaign_id, "sha256": sha256}
    ).scalar_one()
    return dictionary if bytes(kept) == sha256 else _content(connection, bytes(kept))


def _content(connection: Connection, sha256: bytes) -> bytes:
    return read_files(connection, {"dictionary": sha256})["dictionary"]

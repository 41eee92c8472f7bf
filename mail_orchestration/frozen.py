"""What a release froze, read back from the database: every host composes and sends the same (spec 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sqlalchemy import Connection

from mail_orchestration.composition.compression import Compressor
from mail_orchestration.composition.context import MailJobFacts
from mail_orchestration.composition.definition import Campaign, campaign_from_files
from mail_orchestration.dispatch import releases
from mail_orchestration.dispatch.releases import Release
from mail_orchestration.installation import Installation


@dataclass(frozen=True, kw_only=True)
class FrozenRelease:
    """A release with the campaign as it was."""

    release: Release
    campaign: Campaign
    facts: MailJobFacts
    dictionary: bytes | None
    """What its stored messages are compressed against; None before assembly."""

    @cached_property
    def compressor(self) -> Compressor:
        """Reads the stored messages back. Only after assembly has begun. Not for several threads at once.

        One for all children: each takes a megabyte beside Python's heap, and what a child leaves is collected late.
        """
        if self.dictionary is None:
            raise ValueError(f"release {self.release.release_id} has no stored messages yet")
        return Compressor(self.dictionary)


def read_frozen(connection: Connection, inst: Installation, release_id: int) -> FrozenRelease:
    """The release and all that it froze. Raises NotFound."""
    release = releases.read_release(connection, inst.installation_id, release_id)
    contents = releases.read_files(connection, release.files)
    dictionary = None
    if release.dictionary is not None:
        dictionary = releases.read_files(connection, {"dictionary": release.dictionary})["dictionary"]
    return FrozenRelease(
        release=release,
        campaign=campaign_from_files(contents),
        facts=MailJobFacts(
            installation=inst.settings.installation,
            mail_job_id=release_id,
            released_at=release.released_at,
            public_base_url=inst.settings.public_base_url,
        ),
        dictionary=dictionary,
    )

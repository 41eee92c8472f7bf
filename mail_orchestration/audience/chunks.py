"""A checked batch as bytes that PostgreSQL's COPY takes: what comes, chunk by chunk, out of a source.

A contact's number is known before its row is written, so that contacts and members can be copied one after the other
with nothing to look up in between. That works while every address is new; else a chunk goes by the staging table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from mail_orchestration.audience.rows import Reject
from mail_orchestration.audience.staging import StagedBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where an import's contacts and members go."""

    installation_id: int
    audience_id: int
    import_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLines:
    """Lines of COPY for rows whose addresses are all new, in one order."""

    contacts: bytes = field(repr=False)
    members: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of a source, checked. read = rows + repeated + len(rejects)."""

    rows: int
    """Usable ones, each of a mailbox of its own."""
    repeated: int
    rejects: list[Reject]
    read: int
    new: NewLines | None
    """Under the numbers that were given; None when none, or too few, were given."""
    staged: bytes = field(repr=False)
    """Lines for the staging table; empty beside `new`, from which they can be had."""

    @classmethod
    def of(cls, batch: StagedBatch, destination: Destination | None, contact_ids: Sequence[int]) -> Self:
        """Write a batch's lines: for new contacts when there are numbers for all of them, else for staging."""
        new = None
        if destination is not None and len(contact_ids) >= len(batch.rows):
            new = NewLines(
                contacts=batch.contact_lines(destination.installation_id, contact_ids),
                members=batch.member_lines(destination.audience_id, destination.import_id, contact_ids),
            )
        return cls(
            rows=len(batch.rows),
            repeated=batch.repeated,
            rejects=batch.rejects,
            read=batch.read,
            new=new,
            staged=batch.staging_lines() if new is None else b"",
        )

    def staging_lines(self) -> bytes:
        """The rows as COPY takes them into audience_staging."""
        if self.new is None:
            return self.staged
        # No cell of COPY's text format has a bare tab or line end in it.
        contacts = (line.split(b"\t", 1)[1].rsplit(b"\t", 1)[0] for line in _lines(self.new.contacts))
        members = (line.split(b"\t", 1)[1].rsplit(b"\t", 2)[0] for line in _lines(self.new.members))
        return b"".join(b"%b\t%b\n" % cells for cells in zip(contacts, members, strict=True))


def _lines(text: bytes) -> list[bytes]:
    return text.split(b"\n")[:-1]

"""Filling an audience from a source (spec 1.1, 1.2).

An import is one transaction: it is done as a whole or not at all, so a release never sees half of it, and after any
interruption it is simply started again. What a cut-off import leaves is its row in `audience_import` without
`finished_at`.

Within one import the first row of an address gives its details. A later import of the same audience refreshes the
details of everybody it names, all of them: it is the newer word. A contact's address keeps its first spelling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg.errors import UniqueViolation
from sqlalchemy import Connection

from mail_orchestration.audience.checking_ahead import checked_ahead
from mail_orchestration.audience.chunks import Chunk, Destination
from mail_orchestration.audience.merging import begin_merging, copy_lines, fill_staging
from mail_orchestration.audience.rows import Reject, Source
from mail_orchestration.kernel.bulk import copy_rows
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import BadAudience, NotFound
from mail_orchestration.kernel.planner import analyze
from mail_orchestration.kernel.statements import STATEMENTS

_WORTH_ANALYZING = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """What an import came to: rows_read = rows_accepted + rows_repeated + rows_rejected."""

    import_id: int
    rows_read: int
    rows_accepted: int
    rows_repeated: int
    """Rows of an address that came before in the same source."""
    rows_rejected: int
    members: int
    """How many the audience has now."""
    members_removed: int
    """In mode replace: members whom the source did not name."""
    by_reason: dict[str, int]
    """Rejected rows by RejectCode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceSize:
    """An audience for status displays."""

    audience_id: int
    name: str
    members: int
    last_import_id: int | None
    last_source: str | None
    last_imported_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneImport:
    """An import that was done, and how many of its rows were set aside."""

    import_id: int
    source: str
    finished_at: datetime
    rows_rejected: int


def ensure_installation(connection: Connection, name: str) -> int:
    """The installation_id of a name; made when it is new. In the caller's transaction."""
    made = connection.scalar(STATEMENTS["ensure_installation_row"], {"name": name})
    return int(made or connection.scalars(STATEMENTS["find_installation"], {"name": name}).one())


def ensure_audience(connection: Connection, installation_id: int, name: str) -> int:
    """The audience_id of a name; made when it is new. In the caller's transaction."""
    key = {"installation_id": installation_id, "name": name}
    made = connection.scalar(STATEMENTS["ensure_audience_row"], key)
    return int(made or connection.scalars(STATEMENTS["find_audience"], key).one())


def audience_sizes(connection: Connection, installation_id: int) -> list[AudienceSize]:
    """All audiences of an installation by name, each as its last import left it."""
    rows = connection.execute(STATEMENTS["list_audience_sizes"], {"installation_id": installation_id})
    return [
        AudienceSize(
            audience_id=row.audience_id,
            name=row.name,
            members=row.members,
            last_import_id=row.import_id,
            last_source=row.source,
            last_imported_at=row.finished_at,
        )
        for row in rows
    ]


def done_import(
    connection: Connection, installation_id: int, audience_name: str, import_id: int | None = None
) -> DoneImport:
    """An audience's import of this number; None: its latest. Raises NotFound. One that failed left nothing to see."""
    row = connection.execute(
        STATEMENTS["find_import"],
        {"installation_id": installation_id, "name": audience_name, "import_id": import_id},
    ).one_or_none()
    if row is None:
        number = "" if import_id is None else f" {import_id}"
        raise NotFound(f"no import{number} of an audience named {audience_name!r} was done")
    return DoneImport(
        import_id=row.import_id,
        source=row.source,
        finished_at=row.finished_at,
        rows_rejected=row.rows_rejected,
    )


def rejects(connection: Connection, import_id: int, limit: int) -> list[Reject]:
    """The first `limit` rows that an import set aside, by line."""
    rows = connection.execute(STATEMENTS["list_rejects"], {"import_id": import_id, "limit": limit})
    parts = ((row, row.reason.partition(": ")) for row in rows)
    return [
        Reject(line=row.line, value=row.value, code=code, detail=detail) for row, (code, _, detail) in parts
    ]


def import_audience(
    database: Database,
    installation_id: int,
    audience_name: str,
    source: Source,
    *,
    mode: Literal["append", "replace"] = "append",
    now: datetime,
    progress: Callable[[int], None] | None = None,
) -> ImportSummary:
    """Import `source` into the audience, which is made when it is new. Owns its transactions.

    `append` adds and refreshes members; `replace` also removes those whom the source, read to its end, did not name.
    `progress` is told the number of rows read so far. Raises BadAudience, and leaves the audience as it was, when the
    source cannot be read to its end, or when `replace` finds rows but not one that is usable.
    """
    with database.begin() as connection:
        audience_id = ensure_audience(connection, installation_id, audience_name)
        begun = {"audience_id": audience_id, "source": source.name, "now": now}
        import_id = int(connection.scalars(STATEMENTS["begin_import"], begun).one())
    crash_point("import_begun")
    key = {"installation_id": installation_id, "audience_id": audience_id, "import_id": import_id}
    read = accepted = repeated = removed = 0
    by_reason: Counter[str] = Counter()
    is_all_new = True
    destination = Destination(installation_id=installation_id, audience_id=audience_id, import_id=import_id)
    with database.begin() as connection:
        begin_merging(connection, installation_id)

        def take_contact_ids(count: int, some_keys: Sequence[str]) -> Sequence[int]:
            nonlocal is_all_new
            is_all_new = is_all_new and not _is_one_known(connection, installation_id, some_keys)
            return _contact_ids(connection, count) if is_all_new else ()

        with closing(
            checked_ahead(source, destination=destination, take_contact_ids=take_contact_ids)
        ) as chunks:
            for chunk in chunks:
                merged = 0
                if chunk.rows:
                    # A first list is all new, a later one seldom: the first known address ends the quick way.
                    is_all_new = is_all_new and _add(connection, chunk)
                    merged = chunk.rows if is_all_new else _merge(connection, key, chunk)
                _store_rejects(connection, import_id, chunk.rejects)
                read += chunk.read
                accepted += merged
                repeated += chunk.repeated + chunk.rows - merged
                by_reason.update(reject.code for reject in chunk.rejects)
                crash_point("import_chunk_taken")
                if progress is not None:
                    progress(read)
        if mode == "replace":
            if read and not accepted:
                raise BadAudience(
                    f"{source.name}: none of its {read} rows is usable ({_counted(by_reason)}); "
                    "the audience is left as it was"
                )
            removed = connection.execute(
                STATEMENTS["remove_unnamed_members"], {"audience_id": audience_id, "import_id": import_id}
            ).rowcount
            crash_point("import_replaced")
        figures = {
            "import_id": import_id,
            "rows_read": read,
            "rows_accepted": accepted,
            "rows_repeated": repeated,
            "rows_rejected": by_reason.total(),
        }
        members = int(connection.scalars(STATEMENTS["finish_import"], figures).one())
        crash_point("import_counted")
    crash_point("import_committed")
    if accepted + removed >= _WORTH_ANALYZING:
        with database.begin() as connection:
            # A release may follow within the second.
            analyze(connection, "contact", "audience_member")
    return ImportSummary(
        import_id=import_id,
        rows_read=read,
        rows_accepted=accepted,
        rows_repeated=repeated,
        rows_rejected=by_reason.total(),
        members=members,
        members_removed=removed,
        by_reason=dict(by_reason),
    )


def _is_one_known(connection: Connection, installation_id: int, keys: Sequence[str]) -> bool:
    """Whether one of some addresses is a contact already: to try the quick way would be for nothing then."""
    asked = {"installation_id": installation_id, "keys": list(keys)}
    return bool(keys) and bool(connection.scalar(STATEMENTS["is_one_known"], asked))


def _contact_ids(connection: Connection, count: int) -> Sequence[int]:
    contact_ids: list[int] = connection.scalars(STATEMENTS["take_contact_ids"], {"count": count}).one()
    return contact_ids


def _add(connection: Connection, chunk: Chunk) -> bool:
    """Take in a chunk of which every address is new; False, having done nothing, when one is known."""
    if chunk.new is None:
        return False
    try:
        with connection.begin_nested():
            copy_lines(connection, STATEMENTS["copy_new_contacts"], chunk.new.contacts)
    except UniqueViolation:
        return False
    copy_lines(connection, STATEMENTS["copy_new_members"], chunk.new.members)
    return True


def _merge(connection: Connection, key: dict[str, int], chunk: Chunk) -> int:
    """Merge a chunk; the number of members that it made or refreshed."""
    fill_staging(connection, chunk)
    merged, missed = connection.execute(STATEMENTS["merge_chunk"], key).one()
    if missed:
        # A statement of its own, which sees contacts that another session has made meanwhile.
        merged += connection.execute(STATEMENTS["merge_members"], key).rowcount
    return int(merged)


def _store_rejects(connection: Connection, import_id: int, found: list[Reject]) -> None:
    if found:
        rows = ((import_id, each.line, each.value, f"{each.code}: {each.detail}") for each in found)
        copy_rows(connection, STATEMENTS["copy_rejects"], rows)


def _counted(by_reason: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in by_reason.most_common())

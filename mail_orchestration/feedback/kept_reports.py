"""The report of a mail job is kept as it was counted last, and counted again when something of it has changed.

Whether it did is told by signs that are read at once: each result, retry and held mail that would make another report
of it changes one of them in the same transaction. While somebody works on it there are none: figures are behind
results then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import orjson
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection

from mail_orchestration.feedback.books import later_mail_jobs, release_facts
from mail_orchestration.feedback.progress import Progress, read_progress
from mail_orchestration.feedback.reports import MailJobReport, mail_job_report
from mail_orchestration.kernel.statements import STATEMENTS

COUNTED_AT_ONCE = 20_000
"""The rows of so many recipients are counted whenever somebody asks: it takes a tenth of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportAtOnce:
    """What is known of a mail job without counting many rows of one that goes on."""

    report: MailJobReport | None
    """Of now where there is no progress; else as it was counted last, None if it never was."""
    progress: Progress | None
    """Of a large mail job under way."""


def report_at_once(connection: Connection, release_id: int) -> ReportAtOnce:
    """The report, or of a large mail job under way its progress, with the report that was counted last.

    Under way are also those whose retries wait. One that is at rest is counted if it changed. Raises NotFound.
    """
    release_facts(connection, release_id)
    family = _family(connection, release_id)
    signs = _signs(connection, family)
    kept, is_current = _kept(connection, release_id, signs)
    if kept is not None and is_current:
        return ReportAtOnce(report=kept, progress=None)
    found = connection.execute(STATEMENTS["find_what_is_under_way"], {"release_ids": family}).one()
    if found.is_under_way and found.recipients > COUNTED_AT_ONCE:
        return ReportAtOnce(report=kept, progress=read_progress(connection, release_id))
    return ReportAtOnce(report=_counted(connection, release_id, signs), progress=None)


def current_report(connection: Connection, release_id: int) -> MailJobReport:
    """The report that was kept, if nothing has changed since; else as `counted_report`. Raises NotFound."""
    release_facts(connection, release_id)
    signs = _signs(connection, _family(connection, release_id))
    kept, is_current = _kept(connection, release_id, signs)
    return kept if kept is not None and is_current else _counted(connection, release_id, signs)


def counted_report(connection: Connection, release_id: int) -> MailJobReport:
    """Count every row, and keep the report. Raises NotFound."""
    return _counted(connection, release_id, _signs(connection, _family(connection, release_id)))


def _counted(connection: Connection, release_id: int, before: str | None) -> MailJobReport:
    report = mail_job_report(connection, release_id)
    after = _signs(connection, _family(connection, release_id))
    kept = {
        "release_id": release_id,
        "signs": before if before == after else None,
        "report": _adapter().dump_json(report).decode(),
    }
    connection.execute(STATEMENTS["keep_report"], kept)
    return report


def _kept(connection: Connection, release_id: int, signs: str | None) -> tuple[MailJobReport | None, bool]:
    """The report that was counted last, None if it never was, and whether it is that of these signs."""
    row = connection.execute(
        STATEMENTS["read_kept_report"], {"release_id": release_id, "signs": signs}
    ).one_or_none()
    if row is None:
        return None, False
    try:
        return _adapter().validate_json(row.report), bool(row.is_current)
    except ValidationError:
        return None, False  # an older version wrote it


def _family(connection: Connection, release_id: int) -> list[int]:
    """The release, and those that send what was held of it."""
    return [release_id, *(each.mail_job_id for each in later_mail_jobs(connection, release_id))]


def _signs(connection: Connection, family: list[int]) -> str | None:
    """Of these releases; None while somebody works on one of them."""
    signs = connection.scalar(STATEMENTS["read_signs"], {"release_ids": family})
    return None if signs is None else orjson.dumps([family, signs]).decode()


@cache
def _adapter() -> TypeAdapter[MailJobReport]:
    return TypeAdapter(MailJobReport)

"""The report of a mail job at rest is counted once, and kept for as long as nothing of it changes.

Whether it did is told by signs that are read at once: each result, retry and held mail that would make another report
of it changes one of them in the same transaction.
"""

from __future__ import annotations

from functools import cache

import orjson
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection

from mail_orchestration.feedback.books import later_mail_jobs, release_facts
from mail_orchestration.feedback.reports import MailJobReport, mail_job_report
from mail_orchestration.kernel.statements import STATEMENTS


def current_report(connection: Connection, release_id: int) -> MailJobReport:
    """The report that was kept, if nothing has changed since; else as `counted_report`. Raises NotFound."""
    release_facts(connection, release_id)
    signs = _signs(connection, release_id)
    kept = None
    if signs is not None:
        kept = connection.scalar(STATEMENTS["read_kept_report"], {"release_id": release_id, "signs": signs})
    if kept is not None:
        try:
            return _adapter().validate_json(kept)
        except ValidationError:
            pass  # an older version wrote it
    return _counted(connection, release_id, signs)


def counted_report(connection: Connection, release_id: int) -> MailJobReport:
    """Count every row, and keep the report if nobody works on the mail job. Raises NotFound."""
    return _counted(connection, release_id, _signs(connection, release_id))


def _counted(connection: Connection, release_id: int, before: str | None) -> MailJobReport:
    report = mail_job_report(connection, release_id)
    if before is not None and before == _signs(connection, release_id):
        kept = {"release_id": release_id, "signs": before, "report": _adapter().dump_json(report).decode()}
        connection.execute(STATEMENTS["keep_report"], kept)
    return report


def _signs(connection: Connection, release_id: int) -> str | None:
    """Of the release and of those that send what was held of it; None while somebody works on one of them."""
    family = [release_id, *(each.mail_job_id for each in later_mail_jobs(connection, release_id))]
    signs = connection.scalar(STATEMENTS["read_signs"], {"release_ids": family})
    return None if signs is None else orjson.dumps([family, signs]).decode()


@cache
def _adapter() -> TypeAdapter[MailJobReport]:
    return TypeAdapter(MailJobReport)

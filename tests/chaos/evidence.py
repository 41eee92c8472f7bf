"""What is known in the end: the relay's log, the journal, what was done, and the database's own rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, text

from mail_orchestration.feedback.books import books
from mail_orchestration.installation import Installation
from tests.chaos.incidents import Incident
from tests.chaos.journal import Said
from tests.chaos.site import Site

LOOSE_MAILS = 0
"""Stands for a mail job where loose mails were reserved instead."""

Key = tuple[int, str]
"""A message: its release, and its recipient's address."""


@dataclass(frozen=True, slots=True)
class Taking:
    """The relay took a message."""

    at: float
    helo: str
    message_id: str
    is_said: bool
    """Whether it went on to say 250."""


@dataclass(frozen=True, slots=True)
class Result:
    """A row of the results log."""

    at: float
    mail_job: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Job:
    """A mail job that a mailcaster takes: small or child."""

    number: int
    state: str
    reason: str
    mailcaster: str
    messages: int
    recovers: int | None
    began: float
    unsent: int
    """Messages of its range without a result when it ended or was taken away."""


@dataclass(kw_only=True)
class Evidence:
    """All of it."""

    takings: dict[Key, list[Taking]] = field(default_factory=dict)
    """In order."""
    sessions: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """By introduction: when each began and ended."""
    mischiefs: dict[str, int] = field(default_factory=dict)
    results: dict[Key, list[Result]] = field(default_factory=dict)
    """In order; every assembled message has an entry."""
    bypassed: int = 0
    """Recipients that assembly gave up: none should be, since every message can be composed."""
    jobs: dict[int, Job] = field(default_factory=dict)
    unended: list[str] = field(default_factory=list)
    wrong_books: list[str] = field(default_factory=list)
    incidents: Sequence[Incident] = ()
    claims: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    """By introduction: when it took which mail job, or LOOSE_MAILS."""
    crashes: list[str] = field(default_factory=list)
    """Errors that nobody foresaw."""
    surprises: Sequence[str] = ()
    left_over: Sequence[str] = ()
    """Processes that outlived the run."""
    connections: int
    hang_after_s: float
    seconds: float


def gather(
    inst: Installation,
    site: Site,
    *,
    incidents: Sequence[Incident],
    said: Sequence[Said],
    surprises: Sequence[str],
    connections: int,
    seconds: float,
) -> Evidence:
    """Read everything. Takes a few seconds for some hundred thousand messages."""
    evidence = Evidence(
        incidents=incidents,
        surprises=surprises,
        connections=connections,
        hang_after_s=site.hang_after_s,
        seconds=seconds,
    )
    _read_relay_log(evidence, site.relay_log)
    for each in said:
        if each.event in ("claimed", "reserved"):
            job = each.more.get("mail_job", LOOSE_MAILS)
            evidence.claims.setdefault(each.introduced_as, []).append((each.at, job))
        elif each.event == "crashed":
            evidence.crashes.append(f"{each.introduced_as}: {each.more['error']}")
    with inst.database.begin() as connection:
        _read_database(evidence, connection)
    return evidence


def _read_relay_log(evidence: Evidence, path: Path) -> None:
    opened: dict[str, tuple[str, float]] = {}
    for fields in _lines(path):
        match fields:
            case ["T", at, _, helo, release, recipient, message_id, said]:
                taking = Taking(float(at), helo, message_id, said == "1")
                evidence.takings.setdefault((int(release), recipient), []).append(taking)
            case ["O", at, session, helo]:
                opened[session] = helo, float(at)
            case ["C", at, session, helo]:
                _, began = opened.pop(session)
                evidence.sessions.setdefault(helo, []).append((began, float(at)))
            case ["M", _, _, _, stage, mischief]:
                name = f"{mischief} at {stage}"
                evidence.mischiefs[name] = evidence.mischiefs.get(name, 0) + 1
            case _:
                raise ValueError(f"a line of the relay's log that it does not write: {fields}")
    for helo, began in opened.values():
        evidence.sessions.setdefault(helo, []).append((began, float("inf")))


def _lines(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8") as log:
        for line in log:
            yield line.rstrip("\n").split("\t")


def _read_database(evidence: Evidence, connection: Connection) -> None:
    keys: dict[tuple[int, int], Key] = {}
    rows = connection.exec_driver_sql("SELECT release_id, message_no, address FROM assembled_message")
    for release_id, message_no, address in rows:
        key = (release_id, address)
        keys[release_id, message_no] = key
        evidence.results[key] = []
    rows = connection.exec_driver_sql(
        "SELECT release_id, message_no, mail_job_id, extract(epoch FROM occurred_at)::float8, outcome::text"
        " FROM result ORDER BY occurred_at, outcome"
    )
    for release_id, message_no, mail_job_id, at, outcome in rows:
        evidence.results[keys[release_id, message_no]].append(Result(at, mail_job_id, outcome))
    rows = connection.execute(JOBS)
    for row in rows:
        evidence.jobs[row.mail_job_id] = Job(
            row.mail_job_id,
            row.state,
            row.reason,
            row.mailcaster,
            row.messages,
            row.recovers_id,
            row.began,
            row.unsent,
        )
    evidence.bypassed = connection.exec_driver_sql("SELECT count(*) FROM bypass").scalar_one()
    for row in connection.exec_driver_sql(
        "SELECT mail_job_id, kind, state, reason FROM mail_job"
        " WHERE ended_at IS NULL OR state NOT IN ('FINISHED', 'RECOVERED', 'P_FINISHED') ORDER BY 1"
    ):
        evidence.unended.append(" ".join(map(str, row)))
    for (release_id,) in connection.exec_driver_sql("SELECT release_id FROM release ORDER BY 1").all():
        found = books(connection, release_id)
        # What is deferred in the end is a dead letter: a retry that waits still was forgotten, one that is gone lost.
        is_retried = found.deferred == found.resting and not found.retried
        if not (found.balances and is_retried) or found.waiting or found.sending or found.unassembled:
            evidence.wrong_books.append(f"release {release_id}: {found.explanation}")


JOBS = text(
    "SELECT j.mail_job_id, j.state::text AS state, j.reason, j.mailcaster, j.recovers_id,"
    " j.last_message - j.first_message + 1 AS messages, extract(epoch FROM j.started_at)::float8 AS began,"
    " j.last_message - j.first_message + 1 - ("
    "  SELECT count(DISTINCT r.message_no) FROM result AS r"
    "  WHERE r.release_id = j.release_id AND r.message_no BETWEEN j.first_message AND j.last_message"
    "  AND r.mail_job_id <= j.mail_job_id) AS unsent"
    " FROM mail_job AS j WHERE j.kind IN ('small', 'child') AND j.started_at IS NOT NULL"
)

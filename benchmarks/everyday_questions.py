"""What people, sensors and mailcasters ask an installation all day long, each as the program asks it.

`asked` runs one and gives the statements that it executed; `look_at_plan` runs one of those once more under EXPLAIN
(ANALYZE), and is rolled back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, event

from benchmarks.long_history import History, Job
from mail_orchestration.audience.importing import audience_sizes
from mail_orchestration.cli.mail_job_commands import read_tree
from mail_orchestration.dispatch.campaigns import campaigns, waiting_releases
from mail_orchestration.dispatch.claim import Claim
from mail_orchestration.dispatch.claims import claim_next
from mail_orchestration.dispatch.loose_mail_lists import count_loose_mails, delivery_log, list_loose_mails
from mail_orchestration.dispatch.mail_jobs import mail_jobs, waiting_kinds
from mail_orchestration.dispatch.message_store import read_message
from mail_orchestration.dispatch.queue_history import QueuedMail, queued_at
from mail_orchestration.dispatch.releases import releases_to_assemble, releases_to_queue, releases_to_report
from mail_orchestration.dispatch.settling import bring_figures_up_to_date
from mail_orchestration.dispatch.shifts import shifts
from mail_orchestration.dispatch.single_mails import failure_groups, read_single_mail
from mail_orchestration.dispatch.unsent import unsent_messages
from mail_orchestration.feedback.kept_reports import counted_report, report_at_once
from mail_orchestration.feedback.uncertain import uncertain_messages
from mail_orchestration.frequency.showing import overview, policy_shown
from mail_orchestration.frequency.why import waiting_mails, why
from mail_orchestration.holding import why_held
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.fleet_settings import MailcasterParameters
from mail_orchestration.kernel.loose_mail_states import AT_REST, LooseMailKind
from mail_orchestration.kernel.model import MessageRange
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.throttling.showing import throttles

HISTORY = timedelta(days=7)
HANG_AFTER_S = 7200.0
_PARTITION = re.compile(r"(\w+)_(\d{8})")


def questions(inst: Installation, history: History) -> dict[str, Callable[[], object]]:
    """By what they are to the one who asks."""
    number, now = inst.installation_id, datetime.now(UTC)
    live = [state for state in MailJobState if not state.is_ended]
    largest = history.largest
    mailcaster = MailcasterParameters(name="m1")
    somebody = history.somebody

    def read(ask: Callable[..., object], *arguments: object, **options: object) -> Callable[[], object]:
        def in_transaction() -> object:
            with inst.database.begin() as connection:
                return ask(connection, *arguments, **options)

        return in_transaction

    def status(connection: Connection) -> None:
        shifts(connection, number)
        mail_jobs(connection, number, limit=20, states=live)
        count_loose_mails(connection, number)
        audience_sizes(connection, number)
        policy_shown(connection, inst)

    def message(**who: Any) -> Callable[[], object]:
        return read(read_message, largest.mail_job_id, **who)

    def report(job: Job) -> Callable[[], object]:
        return read(report_at_once, job.mail_job_id)

    def claimed() -> Claim:
        claim = claim_next(inst.database, number, mailcaster, now=now, hang_after_s=HANG_AFTER_S)
        assert claim is not None
        return claim

    def first_messages() -> None:
        claim = claimed()
        with inst.database.begin() as connection:
            assert unsent_messages(connection, claim, 0, 100).to_send

    whole = MessageRange(
        release_id=largest.mail_job_id,
        released_on=largest.day,
        first_message=1,
        last_message=largest.messages,
    )
    mail = QueuedMail(campaign_id=1, occurrence="", address_key=somebody, content_digest=b"")
    return {
        "status": read(status),
        "status: holds": lambda: why_held(inst),
        "mail-jobs": read(mail_jobs, number, limit=20),
        "mail-jobs --state failed": read(mail_jobs, number, limit=20, states=[MailJobState.FAILED]),
        "mail-jobs N: the largest": lambda: read_tree(inst, largest.mail_job_id),
        "campaign list": read(campaigns, number),
        "report: of 100": report(history.small),
        "report: the third of a day": report(history.middle),
        "report: the largest": report(largest),
        "report: half of a large one is sent": report(history.under_way),
        "report --recount: the third of a day": read(counted_report, history.middle.mail_job_id),
        "report --recount: the largest": read(counted_report, largest.mail_job_id),
        "message N NUMBER": message(message_no=largest.messages * 4 // 5),
        "message N ADDRESS": message(address=somebody),
        "uncertain N": read(uncertain_messages, whole),
        "loose-mails": read(list_loose_mails, number, most=50),
        "dead-letters": read(list_loose_mails, number, states=AT_REST, most=50),
        "delivery-log": read(delivery_log, number, most=50),
        "delivery-log --address": read(delivery_log, number, address=somebody, most=50),
        "delivery-log --address of nobody": read(delivery_log, number, address="no@example.net", most=50),
        "delivery-log --campaign": read(delivery_log, number, campaign="campaign 7", most=50),
        "delivery-log --outcome expired": read(delivery_log, number, outcomes=[Outcome.EXPIRED], most=50),
        "single-mail list": read(list_loose_mails, number, kind=LooseMailKind.SINGLE, most=50),
        "single-mail show": read(read_single_mail, number, history.ended_single_mail),
        "single-mail failures": read(failure_groups, number),
        "throttle": lambda: throttles(inst),
        "frequency": lambda: overview(inst),
        "frequency why": lambda: why(inst, somebody),
        "frequency queue": lambda: waiting_mails(inst),
        "frequency queue --address": lambda: waiting_mails(inst, address=somebody),
        "sensor: what waits": read(waiting_kinds, now, HANG_AFTER_S, installation_id=number),
        "sensor: what is to be assembled": read(releases_to_assemble, number),
        "sensor: what is to be queued": read(releases_to_queue, number, now),
        "sensor: what is to be reported": read(releases_to_report, number),
        "edits: campaigns that wait": read(waiting_releases, number),
        "claim of a child": claimed,
        "claim of a child, and its first messages": first_messages,
        "figures of a child that ended": read(bring_figures_up_to_date, largest.mail_job_id + 1),
        "was this mail queued lately": read(queued_at, number, [mail], history=HISTORY, now=now),
    }


COUNT_ROWS = frozenset(
    {
        "report --recount: the third of a day",
        "report --recount: the largest",
        "frequency",
        "frequency queue",
    }
)
"""Questions that read all of a mail job, of the counters or of what is held, and are meant to."""


def report_on_the_ended(inst: Installation, history: History) -> None:
    """As the process does when a mail job has ended."""
    for job in (history.small, history.middle, history.largest):
        with inst.database.begin() as connection:
            counted_report(connection, job.mail_job_id)


@dataclass(slots=True)
class Plan:
    """How one statement was read."""

    read: dict[str, int] = field(default_factory=dict)
    """Rows that were read of each table or partition, also those that a filter threw away."""
    scanned: dict[str, int] = field(default_factory=dict)
    """Those of them that no index was asked for."""
    partitions: dict[str, int] = field(default_factory=dict)
    """How many partitions of each table were looked into."""


def asked(ask: Callable[[], object]) -> list[tuple[str, Any]]:
    """Ask, and give back each statement with its parameters."""
    executed: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        executed.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        ask()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return executed


def look_at_plan(inst: Installation, statement: str, parameters: Any, *, indexes_only: bool = False) -> Plan:
    """Run a statement once more, without effect; with `indexes_only` a table is scanned only where no index serves."""
    with inst.database.dedicated(autocommit=False) as connection:
        if indexes_only:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        explained = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", parameters
        ).scalar_one()
        connection.rollback()
    plan = Plan()
    touched = set()
    for node in nodes(explained[0]["Plan"]):
        table, loops = node.get("Relation Name"), node["Actual Loops"]
        if table is None or not loops:
            continue
        if found := _PARTITION.fullmatch(table):
            touched.add(found.groups())
        rows = round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * loops)
        plan.read[table] = plan.read.get(table, 0) + rows
        if node["Node Type"] == "Seq Scan":
            plan.scanned[table] = plan.scanned.get(table, 0) + rows
    for parent, _ in touched:
        plan.partitions[parent] = plan.partitions.get(parent, 0) + 1
    return plan


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)

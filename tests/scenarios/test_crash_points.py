"""A process is killed at every crash point in turn; whoever comes after it ends the course, and nobody is lost.

For each point a copy of a prepared database, a victim that dies there (see `crash_victims`), and the same course once
more without a crash. What is judged is the same for all: see `judge`.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from mail_orchestration.audience.csv_source import CsvSource
from mail_orchestration.broadcast import fill_audience
from mail_orchestration.control import Scope, restart
from mail_orchestration.holding import resume
from mail_orchestration.installation import Installation, open_installation
from mail_orchestration.kernel.crash_points import CRASH_POINTS
from mail_orchestration.kernel.states import MailJobState
from tests.scenarios.crash_course import (
    CONNECTIONS,
    FEW,
    MANY,
    NO_INTERFERENCE,
    STEPS,
    SUPPRESSED,
    Interference,
    expected_at_the_relay,
    now,
    run_course,
    write_course,
)
from tests.scenarios.crash_victims import Death, Victim, VictimServer
from tests.scenarios.installations import hours_pass, tally, use_database
from tests.scenarios.relays.postfix_sink import Sink, storing_sink

MESSAGES = MANY + FEW


@dataclass(frozen=True, kw_only=True)
class Crash:
    """How a point is come to."""

    first: str
    """The step of the course that the victim begins with."""
    on: str = ""
    """The step that is to come in the database that it gets, if that is a later one."""
    passing: int = 1
    settings: str = "quick"
    interference: Interference = NO_INTERFERENCE
    after: Crash | None = None
    """A crash before, in the same database: it leaves what this one meets."""
    after_at: str = ""
    is_too_old: bool = False
    """Before it, the mail jobs come of an age at which nothing is recovered."""
    victim_survives: bool = False
    """A process that it started dies."""


_IN_A_CHILD = Crash(first="deliver", passing=20)
_HANDED_BACK = Crash(first="deliver", settings="slow", interference=Interference(end_shift=True))
_STOPPED = Crash(first="deliver", settings="slow", interference=Interference(stop_everything=True))
_RESTARTED = Crash(
    first="deliver",
    interference=Interference(restart_everything=True),
    after=_STOPPED,
    after_at="stop_committed",
)

CRASHES: Mapping[str, Crash] = {
    "import_begun": Crash(first="fill"),
    "import_chunk_taken": Crash(first="fill"),
    "import_replaced": Crash(first="fill"),
    "import_counted": Crash(first="fill"),
    "import_committed": Crash(first="fill"),
    "release_frozen": Crash(first="release", passing=2),
    "release_committed": Crash(first="release"),
    "dedup_begun": Crash(first="resolve"),
    "dedup_inserted": Crash(first="resolve"),
    "dedup_settled": Crash(first="resolve", passing=2),
    "dedup_committed": Crash(first="resolve"),
    "assembly_dictionary_kept": Crash(first="assemble"),
    # Of the eight batches and what a death cuts the sixth into no other worker comes to a sixth.
    "assembly_worker_began": Crash(first="assemble", passing=6, victim_survives=True),
    "assembly_worker_composed": Crash(first="assemble", passing=6, victim_survives=True),
    "assembly_batch_written": Crash(first="assemble", passing=2),
    "assembly_batch_committed": Crash(first="assemble", passing=2),
    "assembly_all_stored": Crash(first="assemble"),
    "assembly_marked": Crash(first="assemble"),
    "assembly_committed": Crash(first="assemble"),
    "queue_marked": Crash(first="queue"),
    "queue_committed": Crash(first="queue"),
    "shift_begun": Crash(first="deliver"),
    "claim_child_made": Crash(first="deliver", passing=2),
    "claim_made": Crash(first="deliver", passing=5),
    "claim_committed": Crash(first="deliver", passing=4),
    "claim_held": Crash(first="deliver", passing=2),
    "recovery_made": Crash(first="deliver", after=_IN_A_CHILD, after_at="result_settled"),
    "recovery_committed": Crash(first="deliver", after=_IN_A_CHILD, after_at="flush_sent"),
    "recovery_too_old": Crash(first="deliver", after=_IN_A_CHILD, after_at="result_settled", is_too_old=True),
    "messages_read": Crash(first="deliver", passing=2),
    "suppressed_recorded": Crash(first="deliver"),
    "repeats_read": Crash(first="deliver", settings="dropping"),
    "session_opened": Crash(first="deliver", passing=3),
    "before_mail": Crash(first="deliver", passing=7),
    "after_envelope": Crash(first="deliver", passing=30),
    "before_body": Crash(first="deliver", passing=30),
    "after_final_dot": Crash(first="deliver", passing=30),
    "after_reply": Crash(first="deliver", passing=30),
    "result_recorded": Crash(first="deliver", passing=30),
    "before_flush": Crash(first="deliver", passing=8),
    "flush_sent": Crash(first="deliver", passing=8),
    "flush_durable": Crash(first="deliver", passing=8),
    "result_settled": Crash(first="deliver", passing=30),
    "heartbeat_written": Crash(first="deliver", settings="slow"),
    "progress_written": Crash(first="deliver", settings="slow"),
    "delivery_ended": Crash(first="deliver", passing=2),
    "finish_child_ended": Crash(first="deliver", passing=4),
    "finish_settled": Crash(first="deliver", passing=4),
    "finish_committed": Crash(first="deliver", passing=4),
    "before_hand_back": _HANDED_BACK,
    "after_hand_back": _HANDED_BACK,
    "stop_noticed": _STOPPED,
    "stop_committed": _STOPPED,
    "before_giving_up": Crash(first="deliver", settings="unreachable"),
    "shift_over": Crash(first="deliver"),
    "stop_asked": _STOPPED,
    "stop_asked_committed": _STOPPED,
    "loose_mails_stopped": _STOPPED,
    "dead_let_go": Crash(first="resolve", on="deliver", after=_STOPPED, after_at="stop_noticed"),
    "restart_asked": _RESTARTED,
    "restart_asked_committed": _RESTARTED,
    "clean_marked": Crash(first="resolve", after=Crash(first="resolve"), after_at="dedup_inserted"),
    "day_counted": Crash(first="close"),
    "day_closed": Crash(first="close"),
    "report_marked": Crash(first="report"),
}


@dataclass
class Site:
    """Prepared databases, a relay that keeps what it gets, and the server of victims."""

    folder: Path
    sink: Sink
    victims: VictimServer
    server_url: str
    create_database: Callable[..., str]
    templates: dict[str, str] = field(default_factory=dict)
    """By the step that is to come: the name of a database in which all before it is done."""

    def settings(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    @contextmanager
    def opened(self) -> Iterator[Installation]:
        """The installation on a copy of a database, which sends nothing before the operator confirms it (5.8)."""
        with open_installation(self.settings("quick"), application_name="tests") as inst:
            resume(inst, after_restore=True)
            yield inst

    def copy(self, template: str) -> str:
        url = self.create_database(template)
        with psycopg.connect(url) as connection:
            # Else the copy is taken for a restored database, and sends nothing.
            connection.execute("DELETE FROM mail_orchestration.database_identity")
        return url

    def drop(self, url: str) -> None:
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(urlsplit(url).path[1:]))
            )

    def let_die(self, point: str, crash: Crash) -> Death:
        victim = Victim(
            settings=str(self.settings(crash.settings)),
            crash_at=f"{point}:{crash.passing}",
            first=crash.first,
            interference=asdict(crash.interference),
        )
        return self.victims.run(victim, {"DATABASE_URL": os.environ["DATABASE_URL"]})


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    create_database: Callable[..., str],
    migrated_template: str,
    server_url: str,
) -> Iterator[Site]:
    """One for all points: the course, taken once without a crash, leaves a database before each step."""
    folder = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch, storing_sink() as sink, ExitStack() as stack:
        url = create_database(migrated_template)
        use_database(url, patch)
        victims = stack.enter_context(VictimServer())
        dropping = stack.enter_context(storing_sink("-q", "."))
        write_course(folder, sink.port, dropping.port)
        made = Site(folder, sink, victims, server_url, create_database)
        with made.opened() as inst:
            fill_audience(inst, "many", source=CsvSource(path=folder / "older.csv"), now=now())
        made.templates[STEPS[0].__name__] = urlsplit(url).path[1:]
        for step, following in pairwise(STEPS):
            url = made.copy(made.templates[step.__name__])
            patch.setenv("DATABASE_URL", url)
            with made.opened() as inst:
                step(inst, NO_INTERFERENCE)
            made.templates[following.__name__] = urlsplit(url).path[1:]
        yield made


def test_every_point_is_swept() -> None:
    assert set(CRASHES) == set(CRASH_POINTS)


@pytest.mark.rule("5.1", "5.3", "1.3", "1.8", "3.3")
@pytest.mark.parametrize("point", CRASHES)
def test_nobody_is_lost_and_little_is_repeated_after_a_crash_at(
    point: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = CRASHES[point]
    url = site.copy(site.templates[crash.on or crash.first])
    monkeypatch.setenv("DATABASE_URL", url)
    for file in site.sink.files():
        file.unlink()
    deaths = 1
    with site.opened() as inst:
        if crash.after is not None:
            before = site.let_die(crash.after_at, crash.after)
            assert before.signal == signal.SIGKILL, f"never passed: {before}"
            hours_pass(inst, 120 if crash.is_too_old else 3)
            deaths += 1
        death = site.let_die(point, crash)
        assert f"CRASH_AT: this process dies at {point}\n" in death.said, f"never passed: {death}"
        assert (death.signal, death.exit_code) == (0 if crash.victim_survives else signal.SIGKILL, 0)
        hours_pass(inst, 3)
        restart(inst, Scope(everything=True))
        run_course(inst, crash.first)
        was_delivered_before = crash.first in ("report", "close")
        judge(inst, None if was_delivered_before else site.sink, deaths, was_too_old=crash.is_too_old)
    site.drop(url)


def judge(inst: Installation, sink: Sink | None, deaths: int, *, was_too_old: bool) -> None:
    """Nobody is lost, nobody has two results, nothing is left half done."""
    with inst.database.begin() as connection:
        releases = connection.scalars(text("SELECT release_id FROM release")).all()
        states = Counter(connection.scalars(text("SELECT state FROM mail_job WHERE state <> 'RECOVERED'")))
        results = Counter(
            {
                row.outcome: row.messages
                for row in connection.execute(
                    text(
                        "SELECT outcome, count(*) AS messages FROM ("
                        "SELECT DISTINCT ON (release_id, message_no) outcome FROM result "
                        "ORDER BY release_id, message_no, result_no DESC) AS last GROUP BY outcome"
                    )
                )
            }
        )
        half_done = {name: connection.scalar(text(query)) for name, query in HALF_DONE.items()}
        counted = connection.scalar(text("SELECT sum(mails) FROM daily_mail_count"))
    assert len(releases) == 2
    for release_id in releases:
        found = tally(inst, release_id)
        assert (found.waiting, found.sending, found.unassembled, found.bypassed_count) == (0, 0, 0, 0)
    expired = results.pop("expired", 0)
    assert results == {"accepted": MESSAGES - len(SUPPRESSED) - expired, "stopped": len(SUPPRESSED)}
    assert half_done == dict.fromkeys(HALF_DONE, 0)
    assert counted == results["accepted"]
    if was_too_old:
        assert 0 < expired < MESSAGES
        assert states == {
            MailJobState.P_PARTIAL_FINISHED: 1,
            MailJobState.FAILED: 1,
            MailJobState.FINISHED: 4,
        }
        return
    assert expired == 0
    assert states == {MailJobState.P_FINISHED: 1, MailJobState.FINISHED: 5}
    if sink is not None:
        got = sink.tally()
        assert set(got) == expected_at_the_relay()
        assert got.total() - len(got) <= deaths * CONNECTIONS
        assert max(got.values()) <= 1 + deaths
        message_ids = {str(mail["X-Rcpt-Args"]): str(mail["Message-ID"]) for mail in sink.messages()}
        assert len(set(message_ids.values())) == len(got), "a repeat has the Message-ID of what it repeats"
        assert {str(mail["Message-ID"]) for mail in sink.messages()} == set(message_ids.values())


HALF_DONE = {
    "results of one message with one number": """
        SELECT count(*)
        FROM (SELECT FROM result GROUP BY release_id, message_no, result_no HAVING count(*) > 1) AS twice
    """,
    "results that supersede none": """
        SELECT count(*) FROM result
        WHERE supersedes IS NOT NULL AND NOT EXISTS (
            SELECT FROM result AS before
            WHERE before.release_id = result.release_id AND before.message_no = result.message_no
                AND before.result_no = result.result_no - 1 AND before.outcome = result.supersedes
        )
    """,
    "second results of what was not uncertain": "SELECT count(*) FROM result WHERE supersedes <> 'uncertain'",
    "imports of a list that were cut off and not done again": """
        SELECT count(*) FROM audience
        WHERE NOT EXISTS (
            SELECT FROM audience_import AS done
            WHERE done.audience_id = audience.audience_id AND done.finished_at IS NOT NULL
        )
    """,
    "members whom no finished import named": """
        SELECT count(*) FROM audience_member INNER JOIN audience_import USING (import_id) WHERE finished_at IS NULL
    """,
    "members too many or too few": f"SELECT count(*) - {MANY + FEW} FROM audience_member",
    "recipients without a message": """
        SELECT count(*) FROM recipient
        WHERE NOT EXISTS (
            SELECT FROM assembled_message AS message
            WHERE message.release_id = recipient.release_id AND message.recipient_no = recipient.recipient_no
        )
    """,
    "releases without a report": "SELECT count(*) FROM release WHERE reported_at IS NULL OR assembled_at IS NULL",
    "shifts that are not over": "SELECT count(*) FROM mailcaster_shift WHERE ended_at IS NULL",
    "figures of mail jobs that are not those of their results": """
        SELECT count(*) FROM mail_job
        WHERE kind <> 'parent' AND accepted <> (
            SELECT count(*) FROM result WHERE result.mail_job_id = mail_job.mail_job_id AND outcome = 'accepted'
        )
    """,
}
"""Each counts what there must be none of."""

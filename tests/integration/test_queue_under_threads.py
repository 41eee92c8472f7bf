"""Claims, crashes, suspended mailcasters, recovery, stops and restarts at the same time (spec 4.6, 5.3, 5.5, 5.6).

Mailcasters and an operator work in threads of their own, each with database sessions of its own, and pause at random.
What they did to each other shows in the end: every message has one result, and nobody met a deadlock.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.claims import Claim, HeldClaim, claim_next, unsent_messages
from mail_orchestration.dispatch.operating import Operated, signs_now
from mail_orchestration.dispatch.restarting import mail_jobs_to_restart, restart_mail_job
from mail_orchestration.dispatch.stopping import end_stopping_of_dead, mail_jobs_to_stop, stop_mail_job
from mail_orchestration.feedback.result_rows import result_columns
from mail_orchestration.kernel.attempts import DeliveryResult, Outcome
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.errors import ClaimLost
from mail_orchestration.kernel.fleet_settings import DispatcherSettings, MailcasterParameters
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState
from tests.integration.dispatch_rows import NOW, World, mailcaster

HANG_AFTER_S = 0.4
DISPATCHER = DispatcherSettings(heartbeat_seconds=0.1, hang_after_seconds=HANG_AFTER_S)
PARENTS, SMALLS, SMALL_MESSAGES = (1400, 900, 150), 12, 8
STOPS = 6
BATCH = 5
FLEET = [
    mailcaster("small", small_audience_threshold=10, small_job_only=True, min_job_size=1, max_job_size=9),
    mailcaster("either", small_audience_threshold=10, min_job_size=3, max_job_size=10),
    *(
        mailcaster(f"large-{n}", small_audience_threshold=10, min_job_size=10 + n, max_job_size=40 + 10 * n)
        for n in range(4)
    ),
]


@dataclass
class Course:
    """What all threads share."""

    world: World
    is_rough: threading.Event = field(default_factory=threading.Event)
    """Mailcasters die and are suspended."""
    is_over: threading.Event = field(default_factory=threading.Event)
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def database(self) -> Database:
        return self.world.database


def work(course: Course, parameters: MailcasterParameters, luck: random.Random) -> None:
    """A mailcaster: one mail job after another, until the course is over."""
    while not course.is_over.is_set():
        with course.database.begin() as connection:
            now = database_now(connection)
        claim = claim_next(
            course.database, course.world.installation_id, parameters, now=now, hang_after_s=HANG_AFTER_S
        )
        if claim is None:
            course.is_over.wait(luck.uniform(0.005, 0.03))
            continue
        course.seen["recovered" if claim.recovers_id else "claimed"] += 1
        with HeldClaim(course.database, claim) as held:
            try:
                deliver(course, claim, held, luck)
            except ClaimLost:
                course.seen["lost its claim"] += 1


def deliver(course: Course, claim: Claim, held: HeldClaim, luck: random.Random) -> None:
    """Send a few messages at a time, and die or be suspended in between, while the course is rough."""
    after = 0
    while True:
        with course.database.begin() as connection:
            now = database_now(connection)
            unsent = unsent_messages(connection, claim, after, BATCH)
        if not unsent:
            held.finish(now)
            return
        if held.heartbeat(now):
            held.let_go_stopped(now)
            return
        match fate(course, luck):
            case "dies":
                return
            case "is suspended":
                time.sleep(2 * HANG_AFTER_S)
            case _:
                time.sleep(luck.uniform(0, 0.02))
        if not append(course, claim, [message.message_no for message in unsent.to_send]):
            raise claim.lost()
        after = unsent.up_to


def fate(course: Course, luck: random.Random) -> str:
    """What befalls a mailcaster now; the first ones are unlucky for certain."""
    if not course.is_rough.is_set():
        return "lives"
    for what, how_often in (("is suspended", 0.01), ("dies", 0.03)):
        if course.seen[what] < 2 or luck.random() < how_often:
            course.seen[what] += 1
            return what
    return "lives"


def append(course: Course, claim: Claim, numbers: list[int]) -> int:
    """Results as the results log writes them: all of them or none."""
    results = [DeliveryResult(n, n, Outcome.ACCEPTED, 250, None, None, "relay", NOW) for n in numbers]
    binds = {name: column.decode() for name, column in result_columns(results).items()}
    own = {"mail_job_id": claim.mail_job_id, "fence": claim.fence}
    release = {"release_id": claim.release_id, "released_on": claim.released_on}
    with course.database.begin() as connection:
        written = connection.execute(STATEMENTS["append_results"], binds | own | release).rowcount
    assert written in (0, len(numbers))
    return written


def operate(course: Course, luck: random.Random) -> None:
    """Stop one mail job or everything, see that nothing is sent while all is stopped, and restart it."""
    for nth in range(STOPS):
        time.sleep(luck.uniform(0.05, 0.2))
        if nth % 2:
            stopped = [luck.choice(every_mail_job(course))]
        else:
            with course.database.begin() as connection:
                stopped = mail_jobs_to_stop(connection, course.world.installation_id)
        for number in stopped:
            done = in_a_transaction(course, stop_mail_job, number)
            course.seen["stopped"] += any(each.is_changed for each in done)
        if nth % 2 == 0:
            see_that_all_is_still(course)
        restart_all(course)
    course.is_rough.clear()
    restart_all(course)


def in_a_transaction(
    course: Course, act: Callable[..., list[Operated]], number: int, **options: object
) -> list[Operated]:
    with course.database.begin() as connection:
        signs = signs_now(connection, DISPATCHER)
        return act(connection, course.world.installation_id, number, signs, **options)


def restart_all(course: Course) -> None:
    with course.database.begin() as connection:
        stopped = mail_jobs_to_restart(connection, course.world.installation_id)
    for number in stopped:
        in_a_transaction(course, restart_mail_job, number, expire_in_hours=None, failed_too=True)


def see_that_all_is_still(course: Course) -> None:
    """No claim or recovery slipped through; within the hang time every holder has let go; then nothing is sent."""
    assert not in_states(course, "RUNNING", "RECOVERING", "QUEUED", "P_QUEUED", "P_ASSIGNING", "P_ASSIGNED")
    while in_states(course, "STOPPING"):
        let_go_for_the_dead(course)
        time.sleep(0.01)
    before = count_results(course)
    time.sleep(0.05)
    assert count_results(course) == before


def let_go_for_the_dead(course: Course) -> None:
    end_stopping_of_dead(course.database, course.world.installation_id, DISPATCHER)


def in_states(course: Course, *states: str) -> int:
    with course.database.begin() as connection:
        counted = text("SELECT count(*) FROM mail_job WHERE CAST(state AS text) = ANY(:states)")
        return int(connection.execute(counted, {"states": list(states)}).scalar_one())


def count_results(course: Course) -> int:
    with course.database.begin() as connection:
        return int(connection.execute(text("SELECT count(*) FROM result")).scalar_one())


def every_mail_job(course: Course) -> list[int]:
    with course.database.begin() as connection:
        return list(connection.execute(text("SELECT mail_job_id FROM mail_job ORDER BY 1")).scalars())


def wait_for_the_end(course: Course) -> None:
    """All that was released has ended, and nothing was left out."""
    ended = [state.value for state in MailJobState if state.is_ended]
    while in_states(course, *ended) < len(every_mail_job(course)):
        let_go_for_the_dead(course)
        time.sleep(0.02)


@pytest.mark.rule("4.6")
@pytest.mark.rule("5.3")
@pytest.mark.rule("5.5")
@pytest.mark.rule("5.6")
@pytest.mark.timeout(120)
def test_everything_at_once_leaves_one_result_for_every_message(database: Database) -> None:
    course = Course(World(database))
    with database.begin() as connection:
        now = database_now(connection)
    for kind, sizes in (("parent", PARENTS), ("small", (SMALL_MESSAGES,) * SMALLS)):
        for messages in sizes:
            course.world.add_messages(course.world.queue(messages, kind=kind, now=now), messages)
    course.is_rough.set()
    with ThreadPoolExecutor(len(FLEET) + 1) as pool:
        at_work = [pool.submit(work, course, each, random.Random(n)) for n, each in enumerate(FLEET)]
        try:
            pool.submit(operate, course, random.Random(100)).result()
            wait_for_the_end(course)
        finally:
            course.is_over.set()
        for each in at_work:
            each.result()

    with database.begin() as connection:
        of_message = connection.execute(
            text("SELECT count(*) FROM result GROUP BY release_id, message_no")
        ).scalars()
        assert Counter(of_message) == {1: sum(PARENTS) + SMALLS * SMALL_MESSAGES}
        states = connection.execute(
            text("SELECT kind, state, count(*) FROM mail_job GROUP BY kind, state ORDER BY kind, state")
        ).all()
    assert {(kind, state) for kind, state, _ in states} <= {
        ("parent", "P_FINISHED"),
        ("small", "FINISHED"),
        ("small", "RECOVERED"),
        ("child", "FINISHED"),
        ("child", "RECOVERED"),
    }
    # It was a test of something: all of it happened.
    for what in ("recovered", "lost its claim", "stopped"):
        assert course.seen[what], course.seen

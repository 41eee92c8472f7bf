"""The course of a run: fill the audiences, then mail and faults side by side, then drain, then gather the evidence."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import text

from mail_orchestration.installation import Installation, open_installation
from mail_orchestration.kernel.errors import DatabaseUnavailable
from tests.chaos import dagster_stack, hosts
from tests.chaos.dagster_stack import DagsterStack
from tests.chaos.evidence import Evidence, gather
from tests.chaos.faults import Faults
from tests.chaos.fleet import Fleet
from tests.chaos.forks import Forks
from tests.chaos.hosts import let_in, second_host
from tests.chaos.journal import JournalReader
from tests.chaos.plan import Kind, Plan
from tests.chaos.site import RelayProcess, fleet, write_site

TICK_S = 0.02
LOOK_EVERY_S = 0.5
IMPORTS_WITHIN_S = 120.0
GOES_ON_WITHIN_S = 300.0
"""A database that replays its log holds up this process too."""
STUCK_AFTER_S = 60.0
"""Without a new result for so long, hang times included, the work is stuck."""
SHARE_OF_MISCHIEF = 0.004
SHARE_DEFERRED, LEAST_DEFERRED = 0.03, 200
"""Of the recipients that the relay is asked to take, and how many at least: they are tried again, as loose mails."""
FIRST_LATENCY_S, LONGEST_LATENCY_S = 0.1, 0.5
AFTER_POSTMASTER_S = 2.0
DAGSTER_BACK_WITHIN_S = 60.0

BACKLOG = text(
    "SELECT coalesce(sum(CASE"
    " WHEN state IN ('P_QUEUED', 'P_ASSIGNING') THEN last_message - next_message + 1"
    " WHEN state = 'QUEUED' THEN last_message - first_message + 1"
    " WHEN state = 'QUEUING' THEN coalesce(release.recipient_count, 1000) END), 0)"
    " FROM mail_job LEFT JOIN release USING (release_id) WHERE parent_id IS NULL"
)
UNENDED = text(
    "SELECT mail_job_id, kind, state, reason, mailcaster FROM mail_job"
    " WHERE ended_at IS NULL ORDER BY mail_job_id"
)
RETRIES = text(
    "SELECT 'retries', state, count(*) FROM loose_mail"
    " WHERE state IN ('SCHEDULED', 'QUEUED', 'SENDING', 'PAUSED') GROUP BY state ORDER BY state"
)
RESULTS = text("SELECT count(*) FROM result")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is run."""

    hang_after_s: float = 3.0
    gap_s: float = 1.2
    """Between two faults, on average."""
    connections: int = 8
    """Of each mailcaster."""
    say: Callable[[str], None] = print


def run(folder: Path, plan: Plan, options: Options) -> Evidence:
    """Everything, from an empty folder to the evidence; all processes have ended then."""
    with ExitStack() as stack:
        relay = RelayProcess(folder, plan.seed)
        stack.callback(relay.stop)
        host = stack.enter_context(second_host())
        remote = hosts.mailcasters(options.connections)
        if host.netns:
            path = str(folder / hosts.SETTINGS)
            remote = [
                replace(each, netns=host.netns, settings=path, database_url=host.database_url)
                for each in remote
            ]
        mailcasters = [*fleet(options.connections), *remote]
        site = write_site(
            folder,
            relay_port=relay.port,
            hang_after_s=options.hang_after_s,
            audiences=plan.audiences,
            campaigns=plan.campaigns,
            mailcasters=mailcasters,
        )
        site.write_settings(folder / hosts.SETTINGS, remote, relay_host=host.address)
        site.write_settings(
            folder / dagster_stack.SETTINGS,
            dagster_stack.mailcasters(options.connections),
            introduced_by_name=True,
        )
        let_in(site, host)
        inst = stack.enter_context(open_installation(site.settings, application_name="chaos"))
        forks = Forks(folder)
        stack.callback(forks.stop)
        journal = JournalReader(site.journal)
        workers = Fleet(forks, journal, mailcasters)
        names = itertools.chain(plan.releases, iter(plan.one_more, None))
        keys = (f"{plan.seed}-{number}" for number in itertools.count(1))
        released: list[str] = []

        def next_release() -> tuple[str, str]:
            released.append(next(names))
            return released[-1], next(keys)

        dagster = DagsterStack(site, inst)
        stack.callback(dagster.stop)
        faults = Faults(
            site=site,
            fleet=workers,
            forks=forks,
            relay=relay,
            host=host,
            dagster=dagster,
            campaigns=list(plan.campaigns),
            next_release=next_release,
        )
        course = _Course(plan, options, inst, relay, forks, journal, workers, faults, released)
        course.fill_audiences()
        workers.start()
        course.work()
        course.drain()
        options.say(f"{course.seconds:7.1f} s  drained")
        surprises = workers.end() + workers.surprises
        forks.stop()
        options.say(f"{course.seconds:7.1f} s  all workers have ended")
        return gather(
            inst,
            site,
            incidents=faults.incidents,
            said=[*journal.said, *journal.read()],
            surprises=surprises,
            connections=options.connections,
            seconds=course.seconds,
        )


class _Course:
    def __init__(
        self,
        plan: Plan,
        options: Options,
        inst: Installation,
        relay: RelayProcess,
        forks: Forks,
        journal: JournalReader,
        workers: Fleet,
        faults: Faults,
        released: list[str],
    ) -> None:
        self._plan, self._options, self._inst = plan, options, inst
        self._relay, self._forks, self._journal = relay, forks, journal
        self._workers, self._faults, self._released = workers, faults, released
        self._began = time.monotonic()
        self._look_at = 0.0
        self._latency_s = FIRST_LATENCY_S

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    def fill_audiences(self) -> None:
        """All at once."""
        for audience in self._plan.audiences:
            self._faults.fill(audience.name)
        self._wait(lambda: not self._faults.under_way.total(), IMPORTS_WITHIN_S)

    def work(self) -> None:
        """Until all faults have struck and all releases are made."""
        deferred = max(SHARE_DEFERRED, LEAST_DEFERRED / self._plan.messages)
        self._relay.order(share=SHARE_OF_MISCHIEF, deferred_share=deferred, latency_s=self._latency_s)
        for _ in range(3):
            self._faults.release()
        self._wait(lambda: self._relay.order()["taken"] > 50, IMPORTS_WITHIN_S)
        of_dagster = [fault.number for fault in self._plan.faults if fault.kind.is_dagster]
        for fault in self._plan.faults:
            if fault.number in of_dagster[:1]:
                self._options.say(f"{self.seconds:7.1f} s  Dagster starts")
                self._workers.assemble(False)
                self._faults.dagster.start(lambda: self._turn(fault.number))  # noqa: B023 - called within
                self._options.say(f"{self.seconds:7.1f} s  Dagster is up")
            self._options.say(f"{self.seconds:7.1f} s  fault {fault.number}: {fault.kind}")
            self._faults.strike(fault)
            # Between half and one and a half of the gap; the plan's own number, so that it is replayed.
            pause_s = self._options.gap_s * (0.5 + fault.wait)
            if fault.kind is Kind.POSTMASTER:
                pause_s += AFTER_POSTMASTER_S
            until = time.monotonic() + pause_s
            self._wait(lambda until=until: time.monotonic() > until, GOES_ON_WITHIN_S, fault.number)  # type: ignore[misc]
            if fault.number in of_dagster[-1:]:
                self._end_dagster(fault.number)
        taken, since = -1, time.monotonic()
        while self._faults.is_pending or len(self._released) < len(self._plan.releases):
            self._turn(len(self._plan.faults))
            if (now_taken := self._relay.order()["taken"]) != taken:
                taken, since = now_taken, time.monotonic()
            elif time.monotonic() - since > STUCK_AFTER_S:
                self._options.say("stuck: the relay gets no more mail")
                return

    def _end_dagster(self, faults_done: int) -> None:
        """Once it has recovered from its last fault."""
        with contextlib.suppress(TimeoutError):
            self._wait(
                lambda: all(
                    each.taken_up_at is not None for each in self._faults.incidents if each.kind.is_dagster
                ),
                DAGSTER_BACK_WITHIN_S,
                faults_done,
            )
        self._options.say(f"{self.seconds:7.1f} s  Dagster ends")
        self._faults.dagster.stop()
        self._workers.assemble(True)

    def drain(self) -> None:
        """Everything calm: until every mail job has ended, and nothing waits for another attempt."""
        self._relay.order(share=0.0, deferred_share=0.0, latency_s=0.0)
        self._options.say(f"{self.seconds:7.1f} s  draining")
        results, since = -1, time.monotonic()
        while True:
            self._turn(None)
            found = self._asked()
            if found is None:
                continue
            unended, count = found
            if not unended:
                return
            if count != results:
                results, since = count, time.monotonic()
            elif time.monotonic() - since > STUCK_AFTER_S:
                self._options.say("stuck: " + "; ".join(unended))
                return
            time.sleep(0.2)

    def _asked(self) -> tuple[list[str], int] | None:
        with contextlib.suppress(DatabaseUnavailable), self._inst.database.begin() as connection:
            unended = [
                " ".join(map(str, row)) for which in (UNENDED, RETRIES) for row in connection.execute(which)
            ]
            return unended, int(connection.execute(RESULTS).scalar_one())
        return None

    def _wait(self, holds: Callable[[], bool], seconds: float, faults_done: int | None = None) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError("the run does not go on; see workers.log in its folder")
            self._turn(faults_done)

    def _turn(self, faults_done: int | None) -> None:
        """One look at everything. `faults_done`: new releases are made meanwhile, in step with the faults."""
        self._forks.poll(TICK_S)
        self._faults.tick(self._journal.read())
        if faults_done is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_EVERY_S
        self._keep_in_step(faults_done)
        if not self._faults.under_way["releaser"] and self._backlog() < max(1000, self._plan.messages / 8):
            self._faults.release()

    def _keep_in_step(self, faults_done: int) -> None:
        """The relay is as slow as it must be for the mail to last as long as the faults."""
        taken = self._relay.order()["taken"] / self._plan.messages
        struck = faults_done / len(self._plan.faults)
        factor = 1.15 if taken > struck else 0.85
        self._latency_s = min(LONGEST_LATENCY_S, max(0.001, self._latency_s * factor))
        self._relay.order(latency_s=self._latency_s)

    def _backlog(self) -> float:
        with contextlib.suppress(DatabaseUnavailable), self._inst.database.begin() as connection:
            return float(connection.execute(BACKLOG).scalar_one())
        return float("inf")

"""How each kind of fault is done. What has to wait for its occasion, such as an assembly that has begun, waits."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, assert_never

import psutil

from tests.chaos import dagster_stack, hosts
from tests.chaos.dagster_stack import DagsterStack
from tests.chaos.fleet import Fleet
from tests.chaos.forks import Forks, Worker
from tests.chaos.hosts import Host
from tests.chaos.incidents import Incident
from tests.chaos.journal import Said
from tests.chaos.plan import Fault, Kind
from tests.chaos.roles import CRASHED
from tests.chaos.site import RelayProcess, Site

DEFERS_S, SLOW_S, STOPPED_FOR_S = 0.5, 3.0, 3.0
EVERYTHING_IS_STOPPED, ONE_IS_STOPPED = 0.3, 0.6
"""Below and above this draw a stop is for everything and for one mail job; in between for a campaign."""
LOOKS_FOR_A_BUSY_ONE = 20
LONGEST_WAIT_S = {
    Kind.ASSEMBLER: 0.6,
    Kind.ASSEMBLY_WORKER: 0.6,
    Kind.DEDUP: 0.5,
    Kind.IMPORTER: 0.8,
}
"""How long after their occasion these strike at most."""


@dataclass
class Faults:
    """Strikes, and keeps what it struck in `incidents`."""

    site: Site
    fleet: Fleet
    forks: Forks
    relay: RelayProcess
    host: Host
    dagster: DagsterStack
    campaigns: Sequence[str]
    next_release: Callable[[], tuple[str, str]]
    """The next campaign to release, and the key that its release is asked for under."""
    incidents: list[Incident] = field(default_factory=list)
    _timers: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _for_assembly: list[Fault] = field(default_factory=list)
    _open: dict[str, Incident] = field(default_factory=dict)
    """Incidents whose work is not taken up yet, by the work."""
    _cut_off: bool = False
    under_way: Counter[str] = field(default_factory=Counter)
    """Releases, imports, stops that are, by role."""

    @property
    def is_pending(self) -> bool:
        """Whether something has still to strike, or to be done after a strike."""
        return bool(self._timers or self._for_assembly or self.under_way.total())

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call it then."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), call))

    def tick(self, said: list[Said]) -> None:
        """Do what is due, and see which occasions have come."""
        for each in said:
            self._note(each)
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def strike(self, fault: Fault) -> None:
        """Do it, or begin to wait for its occasion."""
        match fault.kind:
            case Kind.MAILCASTER | Kind.CLOCK:
                self._kill_mailcaster(fault)
            case Kind.ASSEMBLER | Kind.ASSEMBLY_WORKER:
                self._for_assembly.append(fault)
            case Kind.DEDUP:
                self.release(fault)
            case Kind.IMPORTER:
                audience = self.site.audiences[int(fault.victim * len(self.site.audiences))].name
                self.fill(audience, fault)
            case Kind.POSTMASTER:
                self._kill_postmaster()
            case Kind.SUSPENDED:
                self._suspend(fault)
            case Kind.STOPPED:
                self._stop_and_restart(fault)
            case Kind.TWIN:
                self._begin(fault.kind, [])
                self.fleet.start_mailcaster(self._victim(fault).name, is_twin=True)
            case Kind.DEFERS:
                self._begin(fault.kind, []).until += DEFERS_S
                self.relay.order(defer_s=DEFERS_S)
            case Kind.SLOW:
                self._begin(fault.kind, []).until += SLOW_S
                self.relay.order(slow_s=SLOW_S)
            case Kind.HOST_CUT_OFF:
                self._cut_host_off(fault)
            case Kind.DAEMON | Kind.WEBSERVER | Kind.CODE_SERVER:
                self._kill_service(fault.kind)
            case _:
                assert_never(fault.kind)

    def release(self, fault: Fault | None = None) -> None:
        """Release the next campaign; with a fault it is killed on the way, and asked for once more."""
        campaign, key = self.next_release()
        self._do("releaser", f"release {key}", Kind.DEDUP, fault, campaign=campaign, key=key)

    def fill(self, audience: str, fault: Fault | None = None) -> None:
        """Import an audience; with a fault it is killed on the way, and done once more."""
        self._do("importer", f"audience {audience}", Kind.IMPORTER, fault, audience=audience)

    def _do(self, role: str, name: str, kind: Kind, fault: Fault | None, **more: Any) -> None:
        self.under_way[role] += 1

        struck: list[Incident] = []

        def ended(worker: Worker) -> None:
            self.under_way[role] -= 1
            if fault is not None and not struck:
                # It was quicker than the fault, which is owed yet.
                self.after(0.5, lambda: self.strike(replace(fault, wait=fault.wait / 2)))
            if worker.status == CRASHED:
                self.fleet.surprises.append(f"{worker.name} ({worker.pid}) ended with an error")
            elif worker.status:
                # Killed by us, or with the database: asked for again, it is done once.
                self._do(role, name, kind, None, **more)

        worker = self.forks.fork(role, name, on_end=ended, **more)
        if fault is not None:

            def kill() -> None:
                if worker.is_alive:
                    struck.append(self._begin(kind, []))
                    self._open[worker.name] = struck[0]
                    worker.signal(signal.SIGKILL)

            self.after(fault.wait * LONGEST_WAIT_S[kind], kill)

    def _note(self, said: Said) -> None:
        incident = self._open.get(said.name)
        if (
            incident is not None
            and said.at > incident.at
            and said.event in ("released", "importing", "assembling")
        ):
            incident.taken_up_at = said.at
            del self._open[said.name]
        if said.event == "assembling" and self._for_assembly:
            fault = self._for_assembly.pop(0)
            self.after(fault.wait * LONGEST_WAIT_S[fault.kind], lambda: self._kill_assembler(fault, said.pid))

    def _kill_assembler(self, fault: Fault, pid: int) -> None:
        assembler = self.fleet.assembler
        if assembler is None or assembler.pid != pid or not assembler.is_alive:
            self._for_assembly.append(fault)  # on the next occasion
            return
        if fault.kind is Kind.ASSEMBLER:
            self._open[assembler.name] = self._begin(fault.kind, [])
            self.fleet.kill(assembler)
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            # multiprocessing's fork server stands between: the workers are its children.
            children = psutil.Process(pid).children(recursive=True)
            workers = [each for each in children if each.ppid() != pid]
            if workers:
                self._begin(fault.kind, [])
                workers[int(fault.victim * len(workers))].kill()
                return
        # They are being started.
        self.after(0.1, lambda: self._kill_assembler(fault, pid))

    def _victim(self, fault: Fault) -> Worker:
        working = self.fleet.working()
        return working[int(fault.victim * len(working))]

    def _kill_mailcaster(self, fault: Fault, looks: int = 1) -> None:
        if not self.fleet.is_busy() and looks < LOOKS_FOR_A_BUSY_ONE:
            # One that is idle has nothing to lose.
            self.after(0.1, lambda: self._kill_mailcaster(fault, looks + 1))
            return
        victim = self._victim(fault)
        self.fleet.skews[victim.name] = fault.skew_s
        self._begin(fault.kind, [victim])
        self.fleet.kill(victim)

    def _kill_postmaster(self) -> None:
        pid_file = self.site.folder / ".mail_orchestration" / "postgres" / "data" / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
            process = psutil.Process(int(Path(pid_file).read_text().split()[0]))
            if process.name().startswith("postgres"):
                incident = self._begin(Kind.POSTMASTER, self.fleet.mailcasters)
                if self.dagster.is_running:
                    incident.hit += dagster_stack.PLACES
                process.kill()
                return
        # It is just being started again after the last time.
        self.after(0.5, self._kill_postmaster)

    def _suspend(self, fault: Fault) -> None:
        victim = self._victim(fault)
        incident = self._begin(fault.kind, [victim])
        incident.until += self.site.hang_after_s * (1.2 + fault.wait)
        self.fleet.suspended.add(victim.pid)
        victim.signal(signal.SIGSTOP)
        self.after(incident.until - incident.at, lambda: self._wake(victim, incident))

    def _wake(self, victim: Worker, incident: Incident) -> None:
        incident.until = time.time()
        self.fleet.suspended.discard(victim.pid)
        victim.signal(signal.SIGCONT)

    def _stop_and_restart(self, fault: Fault) -> None:
        """Everything, the mail jobs of one campaign, or the one that the victim has in hand."""
        held = self.fleet.held_by(self._victim(fault))
        scope: dict[str, Any] = {"campaign": self.campaigns[int(fault.wait * len(self.campaigns))]}
        if fault.victim < EVERYTHING_IS_STOPPED:
            scope = {"everything": True}
        elif fault.victim > ONE_IS_STOPPED and held is not None:
            scope = {"mail_job": held}
        pause_s = STOPPED_FOR_S * (0.5 + fault.wait)
        self._begin(fault.kind, []).until += pause_s
        self._do(
            "operator", f"operator {fault.number}", fault.kind, None, scope=scope, pause_s=round(pause_s, 2)
        )

    def _cut_host_off(self, fault: Fault) -> None:
        if self._cut_off:
            self.after(1.0, lambda: self._cut_host_off(fault))
            return
        victims = [each for each in self.fleet.mailcasters if each.name in hosts.PLACES]
        incident = self._begin(fault.kind, victims)
        incident.until += self.site.hang_after_s * (1.2 + fault.wait)
        self._cut_off = True
        if self.host.netns:
            self.host.cut_off()
        for victim in victims:
            self.fleet.suspended.add(victim.pid)
            if not self.host.netns:
                victim.signal(signal.SIGSTOP)

        def join() -> None:
            self._cut_off = False
            if self.host.netns:
                self.host.join()
            for victim in victims:
                self._wake(victim, incident)

        self.after(incident.until - incident.at, join)

    def _kill_service(self, kind: Kind) -> None:
        incident = self._begin(kind, [])
        if kind is Kind.CODE_SERVER:
            # The runs are its children.
            incident.hit += dagster_stack.PLACES
        self.dagster.kill(kind)

        def look() -> None:
            if self.dagster.is_running:
                if self.dagster.is_back(incident):
                    incident.taken_up_at = time.time()
                else:
                    self.after(0.3, look)

        look()

    def _begin(self, kind: Kind, victims: list[Worker]) -> Incident:
        now = time.time()
        incident = Incident(kind=kind, at=now, until=now, hit=[each.introduces_itself_as for each in victims])
        self.incidents.append(incident)
        return incident

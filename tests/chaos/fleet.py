"""The workers of the installation, each started again when it ends, as Dagster's sensors or systemd would."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from tests.chaos.forks import Forks, Worker
from tests.chaos.journal import JournalReader
from tests.chaos.site import Mailcaster

ASSEMBLER = "assembler"
ENDS_WITHIN_S = 30.0


class Fleet:
    """Mailcasters and one assembler."""

    def __init__(self, forks: Forks, journal: JournalReader, mailcasters: Sequence[Mailcaster]) -> None:
        self._forks = forks
        self._journal = journal
        self.places = {each.name: each for each in mailcasters}
        self.skews: dict[str, float] = {}
        """How far the clock of a place's next process is off."""
        self.mailcasters: list[Worker] = []
        self.suspended: set[int] = set()
        self.assembler: Worker | None = None
        self._assembles = True
        self.surprises: list[str] = []
        """Workers that ended though nobody had ended them."""
        self._killed: set[int] = set()
        self._is_ending = False

    def start(self) -> None:
        """All of them."""
        for name in self.places:
            self.start_mailcaster(name)
        self._start_assembler()

    def start_mailcaster(self, name: str, *, is_twin: bool = False) -> Worker:
        """A process in this place; a twin is not replaced when it ends."""
        place = self.places[name]
        worker = self._forks.fork(
            "mailcaster",
            name,
            netns=place.netns,
            on_end=self._forget if is_twin else self._replace,
            skew_s=self.skews.get(name, 0.0),
            settings=place.settings,
            database_url=place.database_url,
        )
        self.mailcasters.append(worker)
        return worker

    def working(self) -> list[Worker]:
        """Mailcasters that have anything in hand, as far as the journal tells; all of them when none has."""
        can = self._struck_by_nothing()
        return [each for each in can if self._has_work(each)] or can

    def is_busy(self) -> bool:
        """Whether any has a mail job or loose mails in hand."""
        return any(self._has_work(each) for each in self._struck_by_nothing())

    def _struck_by_nothing(self) -> list[Worker]:
        return [each for each in self.mailcasters if each.is_alive and each.pid not in self.suspended]

    def _has_work(self, worker: Worker) -> bool:
        last = self._journal.last.get(worker.pid)
        return last is not None and last.event in ("claimed", "reserved")

    def held_by(self, worker: Worker) -> int | None:
        """The mail job that it has in hand, as far as the journal tells."""
        last = self._journal.last.get(worker.pid)
        return last.more["mail_job"] if last is not None and last.event == "claimed" else None

    def kill(self, worker: Worker) -> bool:
        """With -9."""
        self._killed.add(worker.pid)
        return worker.signal(signal.SIGKILL)

    def assemble(self, wanted: bool) -> None:
        """Have an assembler, or none because somebody else does its work."""
        self._assembles = wanted
        if self.assembler is None or not self.assembler.is_alive:
            if wanted:
                self._start_assembler()
        elif not wanted:
            self.assembler.signal(signal.SIGTERM)

    def end(self) -> list[str]:
        """Ask all to end, as SIGTERM does; who did not, and was killed."""
        self._is_ending = True
        everybody = [*self.mailcasters, *([self.assembler] if self.assembler else [])]
        for worker in everybody:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        deadline = time.monotonic() + ENDS_WITHIN_S
        while any(each.is_alive for each in everybody) and time.monotonic() < deadline:
            self._forks.poll(0.1)
        left = [each for each in everybody if each.is_alive]
        for worker in left:
            self.kill(worker)
        return [f"{each.name} did not end" for each in left]

    def _replace(self, worker: Worker) -> None:
        self._forget(worker)
        if not self._is_ending:
            self.start_mailcaster(worker.name)

    def _forget(self, worker: Worker) -> None:
        self.mailcasters.remove(worker)
        self.suspended.discard(worker.pid)
        self._note(worker)

    def _start_assembler(self) -> None:
        self.assembler = self._forks.fork("assembler", ASSEMBLER, on_end=self._assembler_ended)

    def _assembler_ended(self, worker: Worker) -> None:
        self._note(worker)
        if self._assembles and not self._is_ending:
            self._start_assembler()

    def _note(self, worker: Worker) -> None:
        # 1 is a database that went away: the next one goes on.
        if worker.status not in (0, 1) and worker.pid not in self._killed:
            self.surprises.append(f"{worker.name} ({worker.pid}) ended with {worker.status}")

"""Was anything lost? What was repeated, by which fault, and was it as little as promised? Pure.

A repeat is charged to what kept one of the results from becoming durable: the fault that struck the process which sent
that message, while it held the mail job that it sent it under; or the relay, when that took the message without a
word and the result said so (`uncertain`). A repeat that nothing accounts for is a failure, whatever the bound.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos import dagster_stack
from tests.chaos.evidence import Evidence, Job, Key, Result, Taking
from tests.chaos.incidents import Incident
from tests.chaos.plan import Kind

RELAY = "relay takes a message and does not say so"
LATE = "heartbeat late, the machine being busy"
JUST_CLOSED_S = 0.5
"""A session that was closed so shortly before counts as open: what it was told may not have been taken in."""
CLOCKS_S = 0.5
"""By so much moments of the relay's log and of the results log may differ: they are of two processes."""
TOLD_WITHIN_S = 0.05
"""Between a claim and its line in the journal."""
STRAGGLERS_S = 5.0
"""So long after a fault the relay may still take what was on its way."""


@dataclass
class Line:
    """A line of the table."""

    kind: str
    times: int = 0
    in_hand: int = 0
    """Messages without a result in the mail jobs that were cut off: what a checkpoint at claim would have lost."""
    lost: int = 0
    repeated: int = 0
    bound: int = 0
    """Connections that were open: at most so many messages may be repeated."""
    uncertain: int = 0
    """Results that say so, in the mail jobs that were cut off; in the relay's line all others."""
    longest_recovery_s: float | None = None


@dataclass(kw_only=True)
class Judgement:
    """The table, and all that is wrong: nothing must be."""

    lines: list[Line]
    messages: int
    """Assembled, to be sent."""
    taken: int
    """Takings of the relay, repeats included."""
    outcomes: dict[str, int]
    """Last results."""
    recovered: int
    retried: int
    """Messages that were deferred and accepted after that."""
    faults: list[str] = field(default_factory=list)
    """What is wrong, in words."""
    notes: list[str] = field(default_factory=list)
    """What is not wrong and good to know."""

    @property
    def holds(self) -> bool:
        return not self.faults


class Court:
    """Looks into the evidence."""

    def __init__(self, evidence: Evidence) -> None:
        self._all = evidence
        self._lines: dict[str, Line] = {}
        self._faults: list[str] = []
        self._notes: list[str] = []
        self._by_helo: dict[str, list[Incident]] = {}
        for incident in sorted(evidence.incidents, key=lambda each: each.at):
            for helo in incident.hit:
                self._by_helo.setdefault(helo, []).append(incident)
        self._holder = {job: (helo, at) for helo, took in evidence.claims.items() for at, job in took}
        self._successor = {job.recovers: job for job in evidence.jobs.values() if job.recovers is not None}
        self._repeats: Counter[int] = Counter()
        self._uncertain_of: Counter[int] = Counter()

    def judge(self) -> Judgement:
        """All questions."""
        for incident in self._all.incidents:
            self._line(incident.kind).times += 1
        self._look_for_lost()
        self._look_for_repeats()
        self._look_at_recoveries()
        self._look_at_the_rest()
        outcomes = Counter(rows[-1].outcome for rows in self._all.results.values() if rows)
        return Judgement(
            lines=list(self._lines.values()),
            messages=len(self._all.results),
            taken=sum(map(len, self._all.takings.values())),
            outcomes=dict(sorted(outcomes.items())),
            recovered=len(self._successor),
            retried=sum(
                rows[-1].outcome == "accepted" and any(row.outcome == "deferred" for row in rows)
                for rows in self._all.results.values()
                if rows
            ),
            faults=self._faults,
            notes=self._notes,
        )

    def _line(self, kind: str) -> Line:
        return self._lines.setdefault(kind, Line(kind))

    def _blame(self, helo: str, moment: float) -> Incident | None:
        """What struck this process while it held what it held at that moment, nearest to the moment.

        What was claimed after a fault struck cannot be its doing: a process that was suspended claims when it is
        awake. Only where nothing else is left is the claim taken to have been told late, after its awakening. Nor is it
        the doing of a fault that struck while the next claim was held: before that one the last is settled.
        """
        claims = self._all.claims.get(helo, [])
        at = bisect_right(claims, (moment, 1 << 62)) - 1
        held_from = claims[at][0] - TOLD_WITHIN_S if at >= 0 else moment
        held_until = claims[at + 1][0] if at + 1 < len(claims) else math.inf
        struck = [
            incident
            for incident in self._by_helo.get(helo, ())
            if incident.until >= held_from and incident.until + STRAGGLERS_S >= moment
        ]
        # A process that had no connection left when a fault struck it has repeated nothing because of that one.
        struck = [each for each in struck if self._open_sessions_of(helo, each)] or struck
        while_held = [incident for incident in struck if held_from <= incident.at <= held_until]
        return min(
            while_held or struck,
            key=lambda incident: max(incident.at - moment, moment - incident.until, 0.0),
            default=None,
        )

    def _open_sessions(self, incident: Incident) -> int:
        """Connections of those who were hit that were open then, no more than they may have.

        Who outlives the fault, as mailcasters do the database, may open one of those until it has noticed: as long as
        repeats are charged to the fault.
        """
        return sum(self._open_sessions_of(helo, incident) for helo in incident.hit)

    def _open_sessions_of(self, helo: str, incident: Incident) -> int:
        """Those of one process."""
        open_then = sum(
            began <= incident.until + STRAGGLERS_S and ended >= incident.at - JUST_CLOSED_S
            for began, ended in self._all.sessions.get(helo, ())
        )
        return min(self._all.connections, open_then)

    def _look_for_lost(self) -> None:
        """A message with no result, or called accepted though the relay never took it."""
        for key, rows in self._all.results.items():
            takings = self._all.takings.get(key, [])
            accepted = sum(row.outcome == "accepted" for row in rows)
            if not rows:
                self._lose(key, takings, "has no result")
            elif accepted and not takings:
                self._lose(key, takings, "is accepted and was never taken")
            if accepted > 1:
                self._faults.append(f"{key} is accepted {accepted} times")
            elif accepted > sum(each.is_said for each in takings):
                self._faults.append(f"{key} is accepted and the relay said so to nobody")
        if strangers := set(self._all.takings) - set(self._all.results):
            self._faults.append(f"the relay took {len(strangers)} messages that nobody assembled")

    def _lose(self, key: Key, takings: list[Taking], how: str) -> None:
        self._faults.append(f"lost: {key} {how}")
        incident = self._blame(takings[0].helo, takings[0].at) if takings else None
        self._line(incident.kind if incident else "unknown").lost += 1

    def _look_for_repeats(self) -> None:
        numbers = {id(incident): n for n, incident in enumerate(self._all.incidents)}
        late: Counter[str] = Counter()
        seen: dict[str, Key] = {}
        for key, takings in self._all.takings.items():
            ids = {each.message_id for each in takings}
            if len(ids) > 1:
                self._faults.append(f"{key} went out under {len(ids)} Message-IDs")
            if any(seen.setdefault(each, key) != key for each in ids):
                self._faults.append(f"{key} shares its Message-ID with another message")
            rows = self._all.results.get(key, [])
            for first, again in pairwise(takings):
                # A result of the first was written: it is the other one that came from a process which was cut off, and
                # whose sockets go on sending when its host is joined again.
                astray = again if self._is_recorded(rows, first, again) else first
                if self._was_uncertain(rows, first, again):
                    self._line(RELAY).repeated += 1
                elif (incident := self._blame(astray.helo, astray.at)) is not None:
                    self._line(incident.kind).repeated += 1
                    self._repeats[numbers[id(incident)]] += 1
                elif (job := self._held(astray)) is not None and job.reason.startswith("hung"):
                    self._line(LATE).repeated += 1
                    late[astray.helo] += 1
                else:
                    self._faults.append(f"{key} was repeated and nothing accounts for it: {first} {again}")
        for number, incident in enumerate(self._all.incidents):
            bound = self._open_sessions(incident)
            self._line(incident.kind).bound += bound
            if self._repeats[number] > bound:
                self._faults.append(
                    f"{incident.kind} repeated {self._repeats[number]} messages with {bound} connections open"
                )

    @staticmethod
    def _is_recorded(rows: list[Result], first: Taking, again: Taking) -> bool:
        """Whether the result that says accepted is of the first taking: it is the nearer one, since clocks differ."""
        return any(row.outcome == "accepted" and row.at - first.at < again.at - row.at for row in rows)

    @staticmethod
    def _was_uncertain(rows: list[Result], first: Taking, again: Taking) -> bool:
        return any(
            row.outcome == "uncertain" and first.at - CLOCKS_S <= row.at <= again.at + CLOCKS_S
            for row in rows
        )

    def _held(self, taking: Taking) -> Job | None:
        """The mail job that the message was sent under."""
        claims = self._all.claims.get(taking.helo, [])
        at = bisect_right(claims, (taking.at, 1 << 62)) - 1
        return self._all.jobs.get(claims[at][1]) if at >= 0 else None

    def _look_at_recoveries(self) -> None:
        for job in self._all.jobs.values():
            successor = self._successor.get(job.number)
            holder = self._holder.get(job.number)
            if successor is None:
                continue
            if holder is None and job.mailcaster in dagster_stack.PLACES:
                holder = (job.mailcaster, job.began)
            if holder is None:
                # Killed between the claim and the journal's line.
                self._notes.append(
                    f"mail job {job.number} was recovered and its holder is not in the journal"
                )
                continue
            incident = self._blame(*holder)
            if "was restarted" in job.reason:
                # Stopped by the operator first, who may have found it without a holder: his pause is no recovery.
                self._line(Kind.STOPPED).in_hand += job.unsent
                continue
            line = self._line(incident.kind if incident else LATE)
            if incident is None:
                line.times += 1
                line.bound += self._all.connections
                continue
            line.in_hand += job.unsent
            self._took(line, successor.began - incident.at)
        for incident in self._all.incidents:
            if incident.taken_up_at is not None:
                self._took(self._line(incident.kind), incident.taken_up_at - incident.at)

    @staticmethod
    def _took(line: Line, seconds: float) -> None:
        line.longest_recovery_s = max(line.longest_recovery_s or 0.0, seconds)

    def _look_at_the_rest(self) -> None:
        everything = self._all
        cut_off = set(self._successor)
        for rows in everything.results.values():
            for row in rows:
                if row.outcome == "uncertain":
                    self._line(RELAY).uncertain += 1
        relay = self._line(RELAY)
        relay.times = sum(
            count for name, count in everything.mischiefs.items() if name.endswith("taken at final dot")
        )
        relay.bound = relay.uncertain
        if relay.repeated > relay.bound:
            self._faults.append(f"{relay.repeated} repeats of {relay.bound} uncertain messages")
        late = self._lines.get(LATE)
        if late is not None and late.repeated > late.bound:
            self._faults.append(f"late heartbeats repeated {late.repeated} messages, more than {late.bound}")
        told_otherwise = sum(
            rows[-1].outcome != "accepted" and any(each.is_said for each in everything.takings.get(key, ()))
            for key, rows in everything.results.items()
            if rows
        )
        if told_otherwise:
            self._notes.append(
                f"{told_otherwise} messages were taken and are not called accepted: the 250 was cut off by a "
                "fault, and the repeat was refused"
            )
        if everything.bypassed:
            self._notes.append(f"{everything.bypassed} recipients were bypassed by assembly")
        self._notes.append(f"{len(cut_off)} mail jobs were recovered")
        self._faults += [f"not ended well: {each}" for each in everything.unended]
        self._faults += [f"books: {each}" for each in everything.wrong_books]
        self._faults += [f"an error nobody foresaw: {each}" for each in everything.crashes]
        self._faults += [f"surprise: {each}" for each in everything.surprises]
        self._faults += [f"left over: {each}" for each in everything.left_over]


def judge(evidence: Evidence) -> Judgement:
    """The judgement on a run."""
    return Court(evidence).judge()

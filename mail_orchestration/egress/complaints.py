"""When what relays answer means that less should be sent: to the relay, or to a group of recipient domains (spec 6.7).

421 speaks of the relay, at once, and so does 4yz to a greeting or EHLO, which no message is to blame for. A 4yz to a
message may speak of anything: greylisting defers a few of many first mails, and that is no reason to go slower. So it
takes MOST_DEFERRED of WINDOW answers, those of a domain from the first deferred one on. In answer to RCPT it speaks of
the domain, and of the relay only where several domains get it. What names an address or a full mailbox speaks of that
recipient alone: when a retry of all full mailboxes comes round, nothing else is answered.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from mail_orchestration.egress.faults import without_addresses
from mail_orchestration.egress.ports import Complaint, Scope
from mail_orchestration.egress.reply import Reply
from mail_orchestration.egress.verdict import Verdict
from mail_orchestration.kernel.attempts import Phase

WINDOW = 50
"""Answers that are looked at together."""
MOST_DEFERRED = 15
"""So many deferred ones of them are a complaint. Of 2 % that are deferred this many in a window never are."""
MOST_OF_ONE_DOMAIN = 5
"""More of one domain than this do not count against the relay."""
_OF_RECIPIENT = re.compile(r"4\.(1\.\d+|2\.[23])")
"""Addressing status, mailbox full, too long for the mailbox (RFC 3463 §3.2, §3.3)."""
MOST_DOMAINS = 100_000
"""Of so many recipient domains answers are counted."""


@dataclass(slots=True)
class _Tally:
    """Answers since `began`, and those of the window before."""

    began: float
    answers: int = 0
    deferred: Counter[str] = field(default_factory=Counter)
    """By recipient domain; by '' what is not the domain's."""
    before_began: float = 0.0
    before_answers: int = 0

    def begin_anew(self, now: float) -> None:
        self.before_began, self.before_answers = self.began, self.answers
        self.began, self.answers, self.deferred = now, 0, Counter()

    def rate(self, now: float) -> float:
        """Answers per second, lately; too few where there was none for a while."""
        began = self.before_began if self.before_answers else self.began
        return (self.before_answers + self.answers) / max(0.1, now - began)


class Complaints:
    """What is counted of the answers that one process gets, and what it has to complain of."""

    def __init__(self) -> None:
        self._relays: dict[Scope, _Tally] = {}
        self._domains: dict[Scope, _Tally] = {}
        """Of domains that deferred something lately."""
        self._made: dict[Scope, Complaint] = {}

    def note_accepted(self, relay: Scope) -> bool:
        """Count a message that was accepted, as nearly all are, where that needs no more; False: `note` it."""
        tally = self._relays.get(relay)
        if tally is None or self._domains or tally.answers >= WINDOW - 1:
            return False
        tally.answers += 1
        return True

    def note(
        self, relay: Scope, domain: Scope | None, verdict: Verdict, reply: Reply, phase: Phase, now: float
    ) -> bool:
        """An answer to a message; `now` in seconds of the steady clock. Whether it led to a complaint."""
        tally = self._relays.get(relay)
        if tally is None:
            tally = self._relays[relay] = _Tally(now)
        tally.answers += 1
        is_new = False
        match verdict:
            case Verdict.GIVE_BACK:
                is_new = self._complain(relay, tally, reply, now)
            case Verdict.DEFERRED if not _is_of_recipient(reply):
                is_of_domain = domain is not None and phase is Phase.RCPT
                tally.deferred[domain.name if domain is not None and is_of_domain else ""] += 1
                if _against_relay(tally) >= MOST_DEFERRED:
                    is_new = self._complain(relay, tally, reply, now)
            case _:
                pass
        if domain is not None:
            is_new |= self._note_of_domain(domain, verdict, reply, phase, now)
        if tally.answers >= WINDOW:
            tally.begin_anew(now)
        return is_new

    def note_turned_away(self, relay: Scope, reply: Reply, now: float) -> bool:
        """A session that the relay refused to begin. 4yz asks for less, or for fewer; whether it led to a complaint."""
        if not reply.is_transient:
            return False
        return self._complain(relay, self._relays.setdefault(relay, _Tally(now)), reply, now)

    def take(self) -> list[Complaint]:
        """What was complained of since the last time."""
        made, self._made = self._made, {}
        return list(made.values())

    def _note_of_domain(
        self, domain: Scope, verdict: Verdict, reply: Reply, phase: Phase, now: float
    ) -> bool:
        is_deferred = verdict is Verdict.DEFERRED and phase is Phase.RCPT and not _is_of_recipient(reply)
        tally = self._domains.get(domain)
        if tally is None:
            if not is_deferred:
                return False
            if len(self._domains) >= MOST_DOMAINS:
                self._domains.clear()
            tally = self._domains[domain] = _Tally(now)
        tally.answers += 1
        tally.deferred[domain.name] += is_deferred
        is_new = tally.deferred[domain.name] >= MOST_DEFERRED and self._complain(domain, tally, reply, now)
        if is_new or tally.answers >= WINDOW:
            del self._domains[domain]
        return is_new

    def _complain(self, scope: Scope, tally: _Tally, reply: Reply, now: float) -> bool:
        self._made[scope] = Complaint(
            scope=scope, reason=without_addresses(str(reply)), seen_rate=tally.rate(now)
        )
        tally.begin_anew(now)
        return True


def _is_of_recipient(reply: Reply) -> bool:
    return reply.enhanced is not None and _OF_RECIPIENT.fullmatch(reply.enhanced) is not None


def _against_relay(tally: _Tally) -> int:
    return sum(min(count, MOST_OF_ONE_DOMAIN) if name else count for name, count in tally.deferred.items())

"""The books of a release: every row of its audiences has exactly one place, at every moment (spec 1.8).

Counted from the rows themselves, never from the figures that the stages keep: what a stage lost or did twice
shows here. A million recipients take a few seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row

from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.loose_mail_states import WAITING, LooseMailState
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Where each of a release's audience rows is. A message is where its last result says."""

    audience_rows: int
    duplicates: int
    recipients: int
    bypassed: Mapping[str, int]
    """Recipients that are skipped, by reason, most first: what dedup knew, and what came up later."""
    held: int = 0
    discarded: int = 0
    expired: int
    unassembled: int
    """Recipients that assembly has not come to yet; none once it is over."""
    assembled: int
    """Messages that are there to be sent, or were: without the expired ones, which have their own line."""
    waiting: int
    """Unsent, and nobody works on them."""
    sending: int
    """Unsent, in a mail job that a mailcaster works on."""
    accepted: int
    deferred: int
    rejected: int
    uncertain: int
    stopped: int
    """Not sent on purpose: the recipient was suppressed meanwhile, or the release was stopped."""
    retried: int = 0
    """Of the deferred ones, and of uncertain ones that are sent once more: those that wait for another attempt."""
    resting: int = 0
    """Those of them that wait for somebody: dead letters, and what is paused or stopped."""
    stray_results: int = 0
    """Results of messages that do not exist. There should be none."""
    broken_chains: int = 0
    """Later results that do not follow the result that they supersede. There should be none."""

    @property
    def bypassed_count(self) -> int:
        """Recipients that are skipped, for any reason."""
        return sum(self.bypassed.values())

    @property
    def balances(self) -> bool:
        """Nothing is missing and nothing is there twice."""
        return not self._faults()

    @property
    def explanation(self) -> str:
        """The equations of spec 1.8 in figures, with what is wrong if they do not hold."""
        lines = [
            f"{self.audience_rows:,} audience rows − {self.duplicates:,} duplicates"
            f" = {self.recipients:,} recipients",
            f"{self.recipients:,} recipients = {self.bypassed_count:,} bypassed + {self.held:,} held"
            f" + {self.discarded:,} discarded + {self.expired:,} expired"
            f" + {self.unassembled:,} not yet assembled + {self.assembled:,} assembled",
            f"{self.assembled:,} assembled = {self.waiting:,} waiting + {self.sending:,} sending"
            f" + {self.accepted:,} accepted + {self.deferred:,} deferred + {self.rejected:,} rejected"
            f" + {self.uncertain:,} uncertain + {self.stopped:,} stopped",
        ]
        if self.retried or self.resting:
            lines.append(
                f"{self.retried:,} loose mails wait for another attempt, {self.resting:,} for the operator"
            )
        return "\n".join([*lines, *(f"WRONG: {fault}" for fault in self._faults())])

    def _faults(self) -> list[str]:
        placed = (
            self.bypassed_count
            + self.held
            + self.discarded
            + self.expired
            + self.unassembled
            + self.assembled
        )
        fates = (
            self.waiting
            + self.sending
            + self.accepted
            + self.deferred
            + self.rejected
            + self.uncertain
            + self.stopped
        )
        return [
            *_difference("recipients", self.recipients, self.audience_rows - self.duplicates),
            *_difference("places of recipients", placed, self.recipients),
            *_difference("ends of messages", fates, self.assembled),
            *_difference("results of messages that do not exist", self.stray_results, 0),
            *_difference("results that supersede what is not there", self.broken_chains, 0),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFacts:
    """What a release is, besides its rows."""

    released_on: date
    released_at: datetime
    campaign: str
    state: MailJobState
    reason: str


def release_facts(connection: Connection, release_id: int) -> ReleaseFacts:
    """The release of that number. Raises NotFound, also when retention has dropped its results."""
    row = connection.execute(STATEMENTS["release_for_report"], {"release_id": release_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no release {release_id}")
    if row.results_dropped_at is not None:
        raise NotFound(
            f"the results of mail job {release_id} are past their retention, and were dropped on "
            f"{row.results_dropped_at:%Y-%m-%d}"
        )
    return ReleaseFacts(
        released_on=row.released_on,
        released_at=row.released_at,
        campaign=row.campaign,
        state=MailJobState(row.state),
        reason=row.reason,
    )


def books(connection: Connection, release_id: int) -> Books:
    """Count a release in one statement, so at one instant, in the caller's transaction. Raises NotFound."""
    facts = release_facts(connection, release_id)
    rows = connection.execute(
        STATEMENTS["count_books"], {"release_id": release_id, "released_on": facts.released_on}
    )
    return _books_of(rows.all())


def _books_of(rows: Sequence[Row[Any]]) -> Books:
    lines: dict[str, int] = {}
    bypassed: dict[str, int] = {}
    ends: dict[str, int] = {}
    recipients = 0
    for line, detail, number in rows:
        if line in ("bypassed", "unassembled", "assembly_done"):
            recipients += number
        if line in ("bypassed", "bypassed_later"):
            bypassed[detail] = bypassed.get(detail, 0) + number
        elif line == "outcome":
            # A later result comes with a line that takes away what it supersedes.
            ends[detail] = ends.get(detail, 0) + number
        elif line == "retry":
            key = "retried" if LooseMailState(detail) in WAITING else "resting"
            lines[key] = lines.get(key, 0) + number
        else:
            lines[line] = lines.get(line, 0) + number
    unsent = lines.get("sending", 0) + lines.get("waiting", 0) + lines.get("stopped_unsent", 0)
    expired = ends.pop("expired", 0)
    return Books(
        audience_rows=lines.get("audience_rows", 0),
        duplicates=lines.get("duplicates", 0),
        recipients=recipients,
        bypassed=dict(sorted(bypassed.items(), key=lambda item: (-item[1], item[0]))),
        expired=expired,
        unassembled=lines.get("unassembled", 0),
        assembled=sum(ends.values()) + unsent,
        waiting=lines.get("waiting", 0),
        sending=lines.get("sending", 0),
        accepted=ends.get("accepted", 0),
        deferred=ends.get("deferred", 0),
        rejected=ends.get("rejected", 0),
        uncertain=ends.get("uncertain", 0),
        stopped=ends.get("stopped", 0) + lines.get("stopped_unsent", 0),
        retried=lines.get("retried", 0),
        resting=lines.get("resting", 0),
        stray_results=lines.get("stray", 0),
        broken_chains=lines.get("broken_chain", 0),
    )


def _difference(what: str, found: int, expected: int) -> list[str]:
    if found == expected:
        return []
    much = "too many" if found > expected else "too few"
    return [f"{abs(found - expected):,} {what} {much}"]

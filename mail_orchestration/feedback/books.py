"""The books of a release: every row of its audiences has exactly one place, at every moment (spec 1.8).

Counted from the rows themselves, never from the figures that the stages keep: what a stage lost or did twice
shows here. A million recipients take a few seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Row

from mail_orchestration.kernel.errors import NotFound
from mail_orchestration.kernel.loose_mail_states import WAITING, LooseMailState
from mail_orchestration.kernel.statements import STATEMENTS
from mail_orchestration.kernel.states import MailJobState

_AT_ONCE = "earlier_waits"
"""The ending in the log of held mails of what never waited, as one of an earlier occurrence does (spec 8.7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Where each of a release's audience rows is. A message is where its last result says."""

    audience_rows: int
    duplicates: int
    recipients: int
    bypassed: Mapping[str, int]
    """Recipients that are skipped, by reason, most first: what dedup knew, and what came up later."""
    held: int = 0
    """Those who wait in the frequency queue; of a dry run, those who would."""
    discarded: int = 0
    """Those whom the frequency policy kept from getting it for good: not queued, or deleted from its queue."""
    expired: int
    """Those whose message or wait in the frequency queue ended unsent: its time had passed, or an earlier one waits."""
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
    forbidden: Mapping[str, int] = field(default_factory=dict)
    """Recipients whom the frequency policy kept from getting it at once, by the rule that did, most first."""
    sent_later: int = 0
    """Of them, those who waited and are recipients of later mail jobs now: each is in the line that says where."""
    later_mail_jobs: tuple[int, ...] = ()
    """The mail jobs that send what was held of this one."""
    stray_holds: int = 0
    """Recipients who were held and of whose wait nothing is known, or too much. There should be none."""

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
        if self.forbidden:
            by_rule = ", ".join(f"{number:,} by {rule}" for rule, number in self.forbidden.items())
            lines.append(f"kept by the frequency policy from getting it at once: {by_rule}")
        if self.sent_later:
            numbers = ", ".join(map(str, self.later_mail_jobs))
            lines.append(
                f"{self.sent_later:,} of them are counted where later mail jobs have them: {numbers}"
            )
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
            *_difference("ends of held mails", self.stray_holds, 0),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFacts:
    """What a release is, besides its rows."""

    released_on: date
    released_at: datetime
    campaign: str
    state: MailJobState
    reason: str
    is_dry_run: bool
    held_from: int | None
    """The release whose held mails this one sends."""
    messages: int
    """That were assembled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterMailJob:
    """A mail job that sends what the frequency policy had held of another."""

    mail_job_id: int
    released_on: date
    released_at: datetime
    state: MailJobState
    mails: int
    """Recipients who were held, and are its own now."""


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
        is_dry_run=row.is_dry_run,
        held_from=row.held_from,
        messages=row.messages,
    )


def later_mail_jobs(connection: Connection, release_id: int) -> list[LaterMailJob]:
    """The mail jobs that send what was held of this one, oldest first."""
    rows = connection.execute(STATEMENTS["list_later_releases"], {"release_id": release_id})
    return [LaterMailJob(**{**row._mapping, "state": MailJobState(row.state)}) for row in rows]


def books(connection: Connection, release_id: int) -> Books:
    """Count a release in one statement, so at one instant, in the caller's transaction. Raises NotFound.

    Whom the frequency policy held and whom a later mail job has since is where that one has them (spec 1.8).
    """
    facts = release_facts(connection, release_id)
    later = later_mail_jobs(connection, release_id)
    while True:
        rows = connection.execute(
            STATEMENTS["count_books"],
            {
                "release_id": release_id,
                "release_ids": [release_id, *(each.mail_job_id for each in later)],
                "days": sorted({facts.released_on, *(each.released_on for each in later)}),
            },
        )
        counted = _books_of(rows.all(), later, is_dry_run=facts.is_dry_run)
        # What was held a moment ago may be in a later mail job by now, which the first look did not find.
        known, later = later, later_mail_jobs(connection, release_id)
        if counted.balances or [each.mail_job_id for each in known] == [each.mail_job_id for each in later]:
            return counted


def _books_of(rows: Sequence[Row[Any]], later: Sequence[LaterMailJob], *, is_dry_run: bool) -> Books:
    lines: Counter[str] = Counter()
    bypassed: Counter[str] = Counter()
    forbidden: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    for line, detail, number in rows:
        match line:
            case "bypassed":
                bypassed[detail] += number
            case "outcome":
                # A later result comes with a line that takes away what it supersedes.
                outcomes[detail] += number
            case "retry":
                lines["retried" if LooseMailState(detail) in WAITING else "resting"] += number
            case "ended":
                endings[detail] += number
            case _:
                lines[line] += number
                if line.startswith("frequency_"):
                    forbidden[detail] += number
    unsent = lines["sending"] + lines["waiting"] + lines["stopped_unsent"]
    expired = outcomes.pop("expired", 0)
    held_at_gate = lines["frequency_held"]
    gone = endings.total() - endings[_AT_ONCE]
    in_later = endings["sent"] + endings["policy_disabled"]
    stray = (
        abs(held_at_gate - lines["held"] - gone)
        + abs(lines["frequency_expired"] - endings[_AT_ONCE])
        + abs(in_later - lines["sent_later"])
    )
    return Books(
        audience_rows=lines["audience_rows"],
        duplicates=lines["duplicates"],
        recipients=lines["recipients"],
        bypassed=_most_first(bypassed),
        held=held_at_gate if is_dry_run else lines["held"],
        discarded=lines["frequency_discarded"] + endings["deleted"],
        expired=expired
        + lines["frequency_expired"]
        + endings["expired"]
        + endings["campaign_deleted"]
        + endings["stopped"],
        unassembled=lines["unassembled"],
        assembled=sum(outcomes.values()) + unsent,
        waiting=lines["waiting"],
        sending=lines["sending"],
        accepted=outcomes["accepted"],
        deferred=outcomes["deferred"],
        rejected=outcomes["rejected"],
        uncertain=outcomes["uncertain"],
        stopped=outcomes["stopped"] + lines["stopped_unsent"],
        retried=lines["retried"],
        resting=lines["resting"],
        stray_results=lines["stray"],
        broken_chains=lines["broken_chain"],
        forbidden=_most_first(forbidden),
        sent_later=lines["sent_later"],
        later_mail_jobs=tuple(each.mail_job_id for each in later),
        stray_holds=0 if is_dry_run else stray,
    )


def _most_first(counted: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def _difference(what: str, found: int, expected: int) -> list[str]:
    if found == expected:
        return []
    much = "too many" if found > expected else "too few"
    return [f"{abs(found - expected):,} {what} {much}"]

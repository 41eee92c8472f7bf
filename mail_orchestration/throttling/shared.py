"""The throttle that all share through the database: slices of each limit, taken ahead under a row's lock (spec 6.7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from uuid import uuid4

from sqlalchemy import Connection

from mail_orchestration.dispatch.relay_connections import (
    SILENT_FOR_S,
    Holder,
    forget_holder,
    holders,
    write_holder,
)
from mail_orchestration.dispatch.throttles import (
    BackOffRow,
    Key,
    ThrottleRow,
    advance_throttles,
    list_back_offs,
    lock_throttles,
    write_back_off,
)
from mail_orchestration.egress.aimd import STEPS, BackedOff, cut
from mail_orchestration.egress.connection_shares import entitled
from mail_orchestration.egress.ledger import Ledger
from mail_orchestration.egress.pace import SECOND, fastest
from mail_orchestration.egress.ports import Complaint, Held, Scope, Slice, Standing, Unused, Wish
from mail_orchestration.egress.relay import Relay
from mail_orchestration.egress.slots import Grant, Line, Taken, allot, hand_back
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.errors import DatabaseUnavailable
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.throttling.known_limits import KnownLimits, relay_scope
from mail_orchestration.throttling.other_installations import hear_others

SURELY_PER_CONNECTION = 2.0
"""Messages per second that a connection is taken to carry as long as nobody knows better."""

_log = logging.getLogger(__name__)


class SharedThrottle:
    """Egress' `SlotSource` over the database. One for each process that sends."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._known = KnownLimits(settings)
        with database.begin() as connection:
            hear_others(connection, self._known)
        self._round = round(settings.dispatcher.back_off_round_seconds * SECOND)
        self._holder = uuid4().hex
        self._backing_off: frozenset[Scope] = frozenset()
        self._connections: Mapping[Scope, int] = {}
        self._stood_at = steady_seconds()

    def scope_of_relay(self, relay: Relay) -> Scope:
        """By its host and port."""
        return relay_scope(relay.host, relay.port)

    def scope_of_domain(self, domain: str) -> Scope:
        """The group that names the domain, or the domain itself."""
        return self._known.scope_of_domain(domain)

    def is_limited(self, scope: Scope) -> bool:
        """Whether settings limit it, ours or another installation's, or it asked for less."""
        return scope in self._backing_off or self._known.is_limited(scope)

    async def take(self, wishes: Mapping[Scope, Wish], unused: Sequence[Unused]) -> Sequence[Slice]:
        """A slice for each wish. Raises DatabaseUnavailable."""
        return await asyncio.to_thread(self._take, wishes, unused)

    async def stand(self, complaints: Sequence[Complaint], held: Mapping[Scope, Held]) -> Standing:
        """Note complaints, keep or take connections. Raises DatabaseUnavailable, but not while what is held is ours."""
        try:
            standing = await asyncio.to_thread(self._stand, complaints, held)
        except DatabaseUnavailable as error:
            if steady_seconds() - self._stood_at > SILENT_FOR_S / 2:
                raise
            _log.warning("the throttle is not kept: %s", error)
            return Standing(connections=self._connections, is_news=False)
        self._stood_at, self._connections = steady_seconds(), standing.connections
        return standing

    async def leave(self) -> None:
        """Its connections are for others. Raises DatabaseUnavailable."""
        await asyncio.to_thread(self._leave)

    def _take(self, wishes: Mapping[Scope, Wish], unused: Sequence[Unused]) -> Sequence[Slice]:
        scopes = {*wishes, *(each.slice.scope for each in unused)}
        with self._database.begin() as connection:
            rows, now = lock_throttles(connection, [(scope.kind, scope.name) for scope in scopes])
            limits = {
                scope: self._known.limits(scope, first_used=rows[_key(scope)].first_used, now=now)
                for scope in scopes
            }
            taken = {scope: _taken(rows[_key(scope)]) for scope in scopes}
            for each in unused:
                scope, grant = each.slice.scope, each.slice.ticket
                assert isinstance(grant, Grant)
                taken[scope] = hand_back(taken[scope], limits[scope], grant, each.unreached, each.unused, now)
            granted: dict[Scope, Grant] = {}
            for scope, wish in wishes.items():
                back_off = backed_off(rows[_key(scope)])
                rate = back_off.rate_at(now, self._round) if back_off is not None else None
                taken[scope], granted[scope] = allot(
                    taken[scope],
                    limits[scope],
                    wish.messages,
                    now,
                    horizon=round(wish.horizon_s * SECOND),
                    spread=round(wish.spread_s * SECOND),
                    rate=rate,
                )
            asked_at = steady_seconds()
            told = advance_throttles(connection, [_row(rows[_key(scope)], taken[scope]) for scope in scopes])
            clocks = _Clocks(told, asked_at, steady_seconds())
        return [_slice(scope, grant, clocks) for scope, grant in granted.items()]

    def _stand(self, complaints: Sequence[Complaint], held: Mapping[Scope, Held]) -> Standing:
        keys = {_key(each.scope) for each in complaints} | {_key(scope) for scope in held}
        with self._database.begin() as connection:
            is_news = hear_others(connection, self._known)
            rows, now = lock_throttles(connection, keys)
            connections, senders, in_use = {}, 1, 0
            for scope, mine in held.items():
                others = {each.holder: each for each in holders(connection, scope.name)}
                others.pop(self._holder, None)
                wanted = {name: each.wanted for name, each in others.items()} | {self._holder: mine.wanted}
                connections[scope] = may = entitled(
                    min(mine.most, self._known.connections(scope) or mine.most),
                    wanted,
                    {name: each.held for name, each in others.items()},
                    self._holder,
                )
                write_holder(
                    connection,
                    scope.name,
                    Holder(holder=self._holder, wanted=mine.wanted, held=max(mine.held, may)),
                )
                senders = max(senders, 1 + sum(each.held > 0 for each in others.values()))
                in_use += max(mine.held, may) + sum(each.held for each in others.values())
            for each in complaints:
                # We see only what is answered to us: that the others are as fast is a guess. How fast it goes at all
                # is not known when it has just begun.
                seen = max(each.seen_rate * senders, SURELY_PER_CONNECTION * in_use)
                self._back_off(connection, rows[_key(each.scope)], replace(each, seen_rate=seen), now)
            recent = list_back_offs(connection, cut_since=now - (STEPS + 1) * self._round)
            slow = {
                Scope(kind, name)
                for (kind, name), row in recent.items()
                if BackedOff(**asdict(row)).rate_at(now, self._round) is not None
            }
        is_news = is_news or not slow <= self._backing_off
        self._backing_off = frozenset(slow)
        return Standing(connections=connections, is_news=is_news)

    def _back_off(self, connection: Connection, row: ThrottleRow, complaint: Complaint, now: int) -> None:
        most = fastest(self._known.limits(complaint.scope, first_used=row.first_used, now=now))
        seen_rate = complaint.seen_rate if most is None else min(complaint.seen_rate, most)
        before = backed_off(row)
        after = cut(before, seen_rate, complaint.reason, now, self._round)
        if after == before:
            return
        write_back_off(connection, row.key, BackOffRow(**asdict(after)))
        _log.warning(
            "%s %s: backing off to %.1f messages per second: %s",
            row.scope,
            row.name,
            after.rate,
            after.reason,
        )

    def _leave(self) -> None:
        with self._database.begin() as connection:
            forget_holder(connection, self._holder)


@dataclass(frozen=True, slots=True)
class _Clocks:
    """The database told a moment of its clock between two of ours."""

    told: int
    before: float
    after: float

    def ours(self, moment: int) -> float:
        """A moment of the database on our clock; never too early."""
        return self.after + (moment - self.told) / SECOND

    @property
    def doubt_s(self) -> float:
        """By how much it may be too late."""
        return self.after - self.before


def backed_off(row: ThrottleRow) -> BackedOff | None:
    """What the row says of a rate that was cut."""
    return None if row.back_off is None else BackedOff(**asdict(row.back_off))


def _key(scope: Scope) -> Key:
    return scope.kind, scope.name


def _taken(row: ThrottleRow) -> Taken:
    line = None
    if row.line_interval:
        line = Line(row.line_origin, row.line_interval, row.line_lateness, row.line_heads)
    return Taken(line, Ledger(row.taken), row.line_short_at)


def _row(row: ThrottleRow, taken: Taken) -> ThrottleRow:
    if taken.line is not None:
        row = replace(
            row,
            line_origin=taken.line.origin,
            line_interval=taken.line.interval,
            line_lateness=taken.line.lateness,
            line_heads=taken.line.heads,
            line_short_at=taken.short_at,
        )
    return replace(row, taken={window: dict(periods) for window, periods in taken.ledger.taken.items()})


def _slice(scope: Scope, grant: Grant, clocks: _Clocks) -> Slice:
    return Slice(
        scope=scope,
        opens=[clocks.ours(moment) for moment in grant.moments],
        weight=grant.weight,
        messages=grant.messages,
        lateness_s=grant.lateness / SECOND - clocks.doubt_s,
        again_at=clocks.ours(grant.opens_at) if not grant.moments else 0.0,
        ticket=grant,
    )

"""The throttle that all share through the database: slices of each limit, taken ahead under a row's lock (spec 6.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mail_orchestration.dispatch.throttles import ThrottleRow, advance_throttles, lock_throttles
from mail_orchestration.egress.ports import Scope, Slice, Unused
from mail_orchestration.egress.relay import Relay
from mail_orchestration.egress.slots import SECOND, Grant, Ledger, Limits, Line, Taken, allot, hand_back
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.limit_settings import EACH_OTHER_DOMAIN, LimitSettings
from mail_orchestration.kernel.settings import Settings


class SharedThrottle:
    """Egress' `SlotSource` over the database. One for each process that sends."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._relays = {
            address_of(relay.host, relay.port): limits_of(relay.limits) for relay in settings.relays
        }
        self._groups = {group.name: limits_of(group.limits) for group in settings.domains}
        self._group_of = {domain: group.name for group in settings.domains for domain in group.members}

    def scope_of_relay(self, relay: Relay) -> Scope | None:
        """A relay is the same whoever calls it by whatever name: its host and port."""
        address = address_of(relay.host, relay.port)
        return Scope("relay", address) if self._relays.get(address) else None

    def scope_of_domain(self, domain: str) -> Scope | None:
        """The group that names the domain, or the domain itself where `*` limits each of the others."""
        group = self._group_of.get(domain)
        if group is None:
            return Scope("domain", domain) if self._groups.get(EACH_OTHER_DOMAIN) else None
        return Scope("domain", group) if self._groups[group] else None

    async def take(self, wishes: Mapping[Scope, int], unused: Sequence[Unused]) -> Sequence[Slice]:
        """A slice for each wish. Raises DatabaseUnavailable."""
        return await asyncio.to_thread(self._take, wishes, unused)

    def _take(self, wishes: Mapping[Scope, int], unused: Sequence[Unused]) -> Sequence[Slice]:
        scopes = {*wishes, *(each.slice.scope for each in unused)}
        with self._database.begin() as connection:
            rows, now = lock_throttles(connection, [(scope.kind, scope.name) for scope in scopes])
            taken = {scope: _taken(rows[scope.kind, scope.name]) for scope in scopes}
            for each in unused:
                scope, grant = each.slice.scope, each.slice.ticket
                assert isinstance(grant, Grant)
                taken[scope] = hand_back(
                    taken[scope], self._limits(scope), grant, each.unreached, each.unused, now
                )
            granted: dict[Scope, Grant] = {}
            for scope, wanted in wishes.items():
                taken[scope], granted[scope] = allot(taken[scope], self._limits(scope), wanted, now)
            asked_at = steady_seconds()
            told = advance_throttles(
                connection, [_row(rows[scope.kind, scope.name], taken[scope]) for scope in scopes]
            )
            clocks = _Clocks(told, asked_at, steady_seconds())
        return [_slice(scope, grant, clocks) for scope, grant in granted.items()]

    def _limits(self, scope: Scope) -> Limits:
        if scope.kind == "relay":
            return self._relays[scope.name]
        return self._groups.get(scope.name) or self._groups[EACH_OTHER_DOMAIN]


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


def address_of(host: str, port: int) -> str:
    """What a relay is known by in the database."""
    return f"{host.lower()}:{port}"


def limits_of(settings: LimitSettings) -> Limits:
    """The limits of the settings as egress' arithmetic knows them."""
    return Limits(**settings.model_dump())


def _taken(row: ThrottleRow) -> Taken:
    line = Line(row.line_origin, row.line_interval, row.line_heads) if row.line_interval else None
    return Taken(line, Ledger(row.taken))


def _row(row: ThrottleRow, taken: Taken) -> ThrottleRow:
    if taken.line is not None:
        row = replace(
            row,
            line_origin=taken.line.origin,
            line_interval=taken.line.interval,
            line_heads=taken.line.heads,
        )
    return replace(row, taken={window: dict(periods) for window, periods in taken.ledger.taken.items()})


def _slice(scope: Scope, grant: Grant, clocks: _Clocks) -> Slice:
    return Slice(
        scope=scope,
        opens=[clocks.ours(moment) for moment in grant.moments],
        lateness_s=grant.lateness / SECOND - clocks.doubt_s,
        again_at=clocks.ours(grant.opens_at) if not grant.moments else 0.0,
        ticket=grant,
    )

"""Every limit as it stands now, for people: what is allowed, used and held, and what asked for less (spec 6.7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from mail_orchestration.dispatch.relay_connections import SILENT_FOR_S
from mail_orchestration.dispatch.throttles import ThrottleListed, ThrottleRow, list_throttles, microseconds
from mail_orchestration.egress.aimd import STEPS, BackedOff
from mail_orchestration.egress.ledger import Ledger
from mail_orchestration.egress.pace import DAY, HOUR, SECOND, Limits, fastest
from mail_orchestration.egress.ports import Scope
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.limit_settings import EACH_OTHER_DOMAIN
from mail_orchestration.throttling.known_limits import KnownLimits, RelayLimits, relay_scope
from mail_orchestration.throttling.other_installations import hear_others

SHOWN_FOR = timedelta(hours=1)
"""A recipient domain that is only one of `*` is shown for so long after something was sent to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOffShown:
    """A rate that was cut, in messages per second."""

    rate: float
    """Now."""
    full_rate: float
    since: datetime
    cut_at: datetime
    free_at: datetime
    """If nobody complains until then."""
    reason: str
    """The relay's words at the last cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StricterElsewhere:
    """A limit of a relay that another installation of the database wants to be lower."""

    installation: str
    limit: str
    """per_second, per_minute, per_hour, per_day or connections; as they hold today, with the ramps'."""
    theirs: int
    ours: int
    """0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleShown:
    """One relay, or one group of recipient domains."""

    scope: str
    name: str
    """Of a relay host and port."""
    called: tuple[str, ...]
    """Of a relay its names in the settings; of a group its domains."""
    limits: Limits
    """As they hold today: with the ramp's."""
    used_in_hour: int | None
    used_in_day: int | None
    """None where there is no such limit: what nobody limits is not counted."""
    rate: float | None
    """The most messages per second now; None: as fast as it goes."""
    back_off: BackOffShown | None
    ramp_day: int | None
    """Of a relay with a ramp: the how manieth day this is, from 1."""
    connections: int | None
    """Of a relay: the most at once, of all processes together."""
    connections_held: int
    processes: int
    """That share them."""
    stricter: tuple[StricterElsewhere, ...] = ()
    """Where another installation's settings say less than ours: theirs holds."""


def throttles(inst: Installation) -> list[ThrottleShown]:
    """All relays and groups of the settings, and further domains that are limited or asked for less."""
    known = KnownLimits(inst.settings)
    round_length = round(inst.settings.dispatcher.back_off_round_seconds * SECOND)
    with inst.database.begin() as connection:
        now = database_now(connection)
        hear_others(connection, known)
        listed = list_throttles(
            connection,
            active_since=now - SHOWN_FOR,
            cut_since=microseconds(now) - (STEPS + 1) * round_length,
            silent_for_s=SILENT_FOR_S,
        )
    called: dict[Scope, list[str]] = {}
    for relay in inst.settings.relays:
        called.setdefault(relay_scope(relay.host, relay.port), []).append(relay.name)
    for group in inst.settings.domains:
        if group.name != EACH_OTHER_DOMAIN:
            called[known.scope_of_domain(group.members[0])] = list(group.members)
    states = {Scope(each.row.scope, each.row.name): each for each in listed}
    shown = [
        _shown(scope, called.get(scope, []), states.get(scope), known, microseconds(now), round_length)
        for scope in [*called, *(scope for scope in states if scope not in called and scope.kind == "domain")]
    ]
    return [each for each in shown if each.called or each.back_off or each.limits]


def _shown(
    scope: Scope,
    called: list[str],
    state: ThrottleListed | None,
    known: KnownLimits,
    now: int,
    round_length: int,
) -> ThrottleShown:
    row = state.row if state is not None else None
    first_used = row.first_used if row is not None else now
    limits = known.limits(scope, first_used=first_used, now=now)
    said = known.of_relay(scope)
    ramp_day = None
    if said and said[0].ramp is not None:
        since = said[0].since
        ramp_day = 1 + max(0, now - (first_used if since is None else since)) // DAY
    back_off = _back_off(row, now, round_length)
    ledger = Ledger(row.taken) if row is not None else Ledger()
    return ThrottleShown(
        scope=scope.kind,
        name=scope.name,
        called=tuple(called),
        limits=limits,
        used_in_hour=ledger.used(HOUR, now) if limits.per_hour else None,
        used_in_day=ledger.used(DAY, now) if limits.per_day else None,
        rate=fastest(limits, back_off.rate if back_off else None),
        back_off=back_off,
        ramp_day=ramp_day,
        connections=known.connections(scope),
        connections_held=state.connections if state is not None else 0,
        processes=state.holders if state is not None else 0,
        stricter=tuple(_stricter(said, first_used, now)),
    )


def _stricter(said: Sequence[RelayLimits], first_used: int, now: int) -> Iterator[StricterElsewhere]:
    """What others say less than the first, who is us."""
    told = [{**asdict(each.at(now, first_used)), "connections": each.stated.connections} for each in said]
    for each, theirs in zip(said[1:], told[1:], strict=True):
        for limit, most in theirs.items():
            ours = told[0][limit]
            if most and (most < ours or not ours):
                yield StricterElsewhere(installation=each.installation, limit=limit, theirs=most, ours=ours)


def _back_off(row: ThrottleRow | None, now: int, round_length: int) -> BackOffShown | None:
    if row is None or row.back_off is None:
        return None
    state = BackedOff(**asdict(row.back_off))
    rate = state.rate_at(now, round_length)
    if rate is None:
        return None
    return BackOffShown(
        rate=rate,
        full_rate=state.full_rate,
        since=_moment(state.since),
        cut_at=_moment(state.cut_at),
        free_at=_moment(state.free_at(round_length)),
        reason=state.reason,
    )


def _moment(microseconds_since_1970: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds_since_1970)

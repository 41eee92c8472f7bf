"""The limits of the settings, by what shares them: a relay under all its names, a group of recipient domains.

Of a relay that other installations of the database name too, the stricter of each kind holds (spec 6.7).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, time
from zoneinfo import ZoneInfo

from mail_orchestration.egress.pace import Limits
from mail_orchestration.egress.ports import Scope
from mail_orchestration.egress.ramp import Ramp, ramped
from mail_orchestration.kernel.limit_settings import EACH_OTHER_DOMAIN, LimitSettings, RampSettings
from mail_orchestration.kernel.relay_settings import StatedRelayLimits, server_name
from mail_orchestration.kernel.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What one relay may get by the settings of one installation."""

    installation: str
    scope: Scope
    stated: StatedRelayLimits
    limits: Limits
    ramp: Ramp | None
    since: int | None
    """Where the settings say since when it has been in use: microseconds since 1970."""

    @classmethod
    def of(cls, installation: str, scope: Scope, stated: StatedRelayLimits) -> RelayLimits:
        """What an installation says of a relay."""
        ramp, since = ramp_of(stated.ramp, stated.zone) if stated.ramp is not None else (None, None)
        return cls(
            installation=installation,
            scope=scope,
            stated=stated,
            limits=limits_of(stated.limits),
            ramp=ramp,
            since=since,
        )

    def at(self, now: int, first_used: int) -> Limits:
        """Those that hold at a moment, with the ramp's; both in microseconds."""
        return ramped(self.limits, self.ramp, now - (first_used if self.since is None else self.since))


class KnownLimits:
    """What is known without asking the database, but for what other installations say of our relays."""

    def __init__(self, settings: Settings) -> None:
        self.installation = settings.installation
        self._own = {
            (scope := relay_scope(each.host, each.port)): RelayLimits.of(
                settings.installation, scope, each.stated_limits(settings.time_zone)
            )
            for each in settings.relays
        }
        self._others: dict[Scope, list[RelayLimits]] = {}
        self._groups = {group.name: limits_of(group.limits) for group in settings.domains}
        self._group_of = {domain: group.name for group in settings.domains for domain in group.members}

    @property
    def relays(self) -> list[str]:
        """Host and port of those that we name."""
        return [scope.name for scope in self._own]

    def hear(self, others: Iterable[RelayLimits]) -> bool:
        """Note what other installations say of our relays; whether that is something else than before."""
        found: dict[Scope, list[RelayLimits]] = {}
        for each in others:
            found.setdefault(each.scope, []).append(each)
        is_news, self._others = found != self._others, found
        return is_news

    def of_relay(self, scope: Scope) -> Sequence[RelayLimits]:
        """What is said of a relay of ours, by us first; () for another one."""
        own = self._own.get(scope)
        return () if own is None else (own, *self._others.get(scope, ()))

    def connections(self, scope: Scope) -> int | None:
        """The most connections of a relay of ours, of all together; None for another one."""
        return min((each.stated.connections for each in self.of_relay(scope)), default=None)

    def scope_of_domain(self, domain: str) -> Scope:
        """The group that names the domain, or the domain itself."""
        return Scope("domain", self._group_of.get(domain, domain))

    def is_limited(self, scope: Scope) -> bool:
        """Whether the settings limit it."""
        if scope.kind == "relay":
            return any(bool(each.limits) or each.ramp is not None for each in self.of_relay(scope))
        return bool(self._of_domain(scope.name))

    def limits(self, scope: Scope, *, first_used: int, now: int) -> Limits:
        """What may be sent there at a moment, when the first message was sent at another; both in microseconds."""
        if scope.kind == "domain":
            return self._of_domain(scope.name)
        return strictest(each.at(now, first_used) for each in self.of_relay(scope))

    def _of_domain(self, name: str) -> Limits:
        found = self._groups.get(name)
        return self._groups.get(EACH_OTHER_DOMAIN, Limits()) if found is None else found


def strictest(limits: Iterable[Limits]) -> Limits:
    """The least of each kind; 0 is no limit."""
    all_of_them = list(limits)
    return Limits(
        **{
            kind.name: min((n for each in all_of_them if (n := getattr(each, kind.name))), default=0)
            for kind in fields(Limits)
        }
    )


def relay_scope(host: str, port: int) -> Scope:
    """A relay is the same whoever calls it by whatever name."""
    return Scope("relay", server_name(host, port))


def limits_of(settings: LimitSettings) -> Limits:
    """The limits of the settings as egress' arithmetic knows them."""
    return Limits(**settings.model_dump())


def ramp_of(settings: RampSettings, zone: ZoneInfo) -> tuple[Ramp, int | None]:
    """A relay's ramp, and since when it is used where the settings say so: microseconds since 1970."""
    ramp = Ramp(messages_on_first_day=settings.messages_on_first_day, growth=settings.growth)
    if settings.since is None:
        return ramp, None
    return ramp, int(datetime.combine(settings.since, time(), zone).timestamp()) * 1_000_000

"""The limits of the settings, by what shares them: a relay under all its names, a group of recipient domains."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time
from zoneinfo import ZoneInfo

from mail_orchestration.egress.pace import Limits
from mail_orchestration.egress.ports import Scope
from mail_orchestration.egress.ramp import Ramp, ramped
from mail_orchestration.kernel.limit_settings import EACH_OTHER_DOMAIN, LimitSettings, RampSettings
from mail_orchestration.kernel.relay_settings import RelaySettings
from mail_orchestration.kernel.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What one relay may get."""

    limits: Limits
    connections: int
    ramp: Ramp | None
    since: int | None
    """Where the settings say since when it has been in use: microseconds since 1970."""


class KnownLimits:
    """What is known without asking the database."""

    def __init__(self, settings: Settings) -> None:
        self.relays = {
            relay_scope(each.host, each.port): _of_relay(each, settings) for each in settings.relays
        }
        self._groups = {group.name: limits_of(group.limits) for group in settings.domains}
        self._group_of = {domain: group.name for group in settings.domains for domain in group.members}

    def scope_of_domain(self, domain: str) -> Scope:
        """The group that names the domain, or the domain itself."""
        return Scope("domain", self._group_of.get(domain, domain))

    def is_limited(self, scope: Scope) -> bool:
        """Whether the settings limit it."""
        if scope.kind == "relay":
            relay = self.relays.get(scope)
            return relay is not None and (bool(relay.limits) or relay.ramp is not None)
        return bool(self._of_domain(scope.name))

    def limits(self, scope: Scope, *, first_used: int, now: int) -> Limits:
        """What may be sent there at a moment, when the first message was sent at another; both in microseconds."""
        if scope.kind == "domain":
            return self._of_domain(scope.name)
        relay = self.relays.get(scope)
        if relay is None:
            return Limits()
        return ramped(relay.limits, relay.ramp, now - (first_used if relay.since is None else relay.since))

    def _of_domain(self, name: str) -> Limits:
        found = self._groups.get(name)
        return self._groups.get(EACH_OTHER_DOMAIN, Limits()) if found is None else found


def relay_scope(host: str, port: int) -> Scope:
    """A relay is the same whoever calls it by whatever name."""
    return Scope("relay", f"{host.lower()}:{port}")


def limits_of(settings: LimitSettings) -> Limits:
    """The limits of the settings as egress' arithmetic knows them."""
    return Limits(**settings.model_dump())


def ramp_of(settings: RampSettings, zone: ZoneInfo) -> tuple[Ramp, int | None]:
    """A relay's ramp, and since when it is used where the settings say so: microseconds since 1970."""
    ramp = Ramp(messages_on_first_day=settings.messages_on_first_day, growth=settings.growth)
    if settings.since is None:
        return ramp, None
    return ramp, int(datetime.combine(settings.since, time(), zone).timestamp()) * 1_000_000


def _of_relay(relay: RelaySettings, settings: Settings) -> RelayLimits:
    ramp, since = ramp_of(relay.ramp, settings.zone) if relay.ramp is not None else (None, None)
    return RelayLimits(limits=limits_of(relay.limits), connections=relay.connections, ramp=ramp, since=since)

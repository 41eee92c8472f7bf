"""How long a mail job will take: its messages, what waits before it, the fleet, the limits of relays and domains."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from mail_orchestration.dispatch.campaigns import CampaignState, campaigns
from mail_orchestration.dispatch.flow import Ceiling
from mail_orchestration.dispatch.forecasting import Forecast, forecast
from mail_orchestration.dispatch.holds import holds
from mail_orchestration.dispatch.mail_jobs import best_rates, releases_before
from mail_orchestration.dispatch.releases import Release, read_release
from mail_orchestration.dispatch.send_window import send_window
from mail_orchestration.dispatch.sizing import mean_child_size
from mail_orchestration.dispatch.throttles import Key, used_throttles
from mail_orchestration.dispatch.unsent import unsent_by_domain
from mail_orchestration.egress.parking import MOST_PARKED
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.kernel.states import MailJobState
from mail_orchestration.throttling.ceilings import as_used, ceiling_of_relay, flows_of
from mail_orchestration.throttling.known_limits import KnownLimits, relay_scope
from mail_orchestration.throttling.other_installations import hear_others

ASSUMED_PER_SECOND = 50.0
"""Of a mailcaster that has not sent yet: what twenty connections do with a relay that takes its time."""
FLEET = "the fleet"
MEASURED_FOR = timedelta(days=30)
MOMENT = "%Y-%m-%d %H:%M:%S %Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseForecast:
    """When a release is through, if it begins now and everybody configured works."""

    finish_at: datetime | None
    """None when that is more than a year off."""
    ahead: int
    """Messages of other mail jobs that wait or are being sent, and come first or beside it."""
    mailcasters: Mapping[str, float]
    """The fleet: the most messages per second that each has done in 30 days, maybe under a limit."""
    assumed: tuple[str, ...]
    """Mailcasters that have not sent yet: theirs is a guess."""
    may_be_faster: bool
    """The fleet holds it back most, by a speed that was measured: maybe under a limit that is higher now."""
    in_its_way: tuple[str, ...]
    """What else keeps it from beginning now, or from being through; sentences for people."""
    forecast: Forecast


def forecast_release(inst: Installation, release_id: int, *, now: datetime) -> ReleaseForecast:
    """Foresee the end of a release's unsent messages. Raises NotFound.

    Deferred messages, which come back later, are not foreseen, nor is a relay that backs off.
    """
    with inst.database.begin() as connection:
        release = read_release(connection, inst.installation_id, release_id)
        in_its_way = _in_its_way(connection, inst, release, now)
        messages = Counter(unsent_by_domain(connection, release_id))
        before: Counter[str] = Counter()
        for other in releases_before(connection, release_id):
            before.update(unsent_by_domain(connection, other))
        flows, domains = flows_of(messages + before, inst.settings.domains)
        relays, domains = _as_used(connection, inst.settings, domains, now)
        measured = best_rates(connection, inst.installation_id, now - MEASURED_FOR)
    names = [mailcaster.name for mailcaster in inst.settings.mailcasters]
    rates = {name: measured.get(name, ASSUMED_PER_SECOND) for name in names}
    children = [mean_child_size(release.message_count, each) for each in inst.settings.mailcasters]
    window = send_window(inst.settings)
    found = forecast(
        flows,
        fleet=Ceiling(name=FLEET, per_second=max(sum(rates.values()), 1e-3)),
        relays=relays,
        domains=domains,
        closed_for=lambda seconds: window.closed_for(now + timedelta(seconds=seconds)),
        in_hand=sum(children) or math.inf,
        aside=MOST_PARKED * len(children) or math.inf,
    )
    finish_at = None if found.seconds is None else now + timedelta(seconds=found.seconds)
    if (
        release.expires_at is not None
        and found.messages
        and (finish_at is None or finish_at > release.expires_at)
    ):
        in_its_way.append(
            f"it expires at {release.expires_at.astimezone(UTC):{MOMENT}}, before it is through"
        )
    return ReleaseForecast(
        finish_at=finish_at,
        ahead=before.total(),
        mailcasters=rates,
        assumed=tuple(name for name in names if name not in measured),
        may_be_faster=found.limited_by == FLEET and any(name in measured for name in names),
        in_its_way=tuple(in_its_way),
        forecast=found,
    )


def _as_used(
    connection: Connection, settings: Settings, domains: Mapping[str, Ceiling], now: datetime
) -> tuple[list[Ceiling], dict[str, Ceiling]]:
    """The relays and those domains, with their quotas and ramps as far as they are used."""
    scopes = [relay_scope(relay.host, relay.port) for relay in settings.relays]
    known = KnownLimits(settings)
    hear_others(connection, known)
    keys: set[Key] = {(scope.kind, scope.name) for scope in scopes} | {("domain", name) for name in domains}
    used = used_throttles(connection, keys)
    relays = []
    for relay, scope in zip(settings.relays, scopes, strict=True):
        state = used.get((scope.kind, scope.name))
        ceiling = ceiling_of_relay(
            f"relay {relay.name}",
            known.of_relay(scope),
            now,
            first_used=None if state is None else state.first_used,
        )
        relays.append(ceiling if state is None else as_used(ceiling, state.taken, now))
    return relays, {
        name: as_used(ceiling, state.taken, now) if (state := used.get(("domain", name))) else ceiling
        for name, ceiling in domains.items()
    }


def _in_its_way(connection: Connection, inst: Installation, release: Release, now: datetime) -> list[str]:
    found = []
    if release.assembled_at is None and release.state in (MailJobState.QUEUING, MailJobState.INTERRUPTED):
        found.append(f"mail job {release.release_id} is {release.state}: its messages are not assembled yet")
    [campaign] = [
        each for each in campaigns(connection, inst.installation_id) if each.name == release.campaign
    ]
    if campaign.state in (CampaignState.PAUSED, CampaignState.DELETED):
        found.append(f"campaign {campaign.name} is {campaign.state}")
    if release.starts_at is not None and release.starts_at > now:
        found.append(f"it does not begin before {release.starts_at.astimezone(UTC):{MOMENT}}")
    found += [f"sending is held: {hold.reason}" for hold in holds(connection, inst.installation_id)]
    return found

"""What is simulated: sections of the settings, and what no settings hold: sizes, domains, failures, hosts, prices."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError, field_validator, model_validator

from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.fleet_settings import DispatcherSettings, MailcasterParameters
from mail_orchestration.kernel.limit_settings import (
    EACH_OTHER_DOMAIN,
    DomainSettings,
    LimitSettings,
    RampSettings,
    check_groups,
)
from mail_orchestration.kernel.near_names import suggestion
from mail_orchestration.kernel.sending_settings import SendWindowSettings
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.kernel.settings_section import Name, Section, TimeZoneName, check_names
from mail_orchestration.kernel.yaml_document import read_yaml_file
from mail_orchestration.simulation.rates import Rates

MOST_DOMAINS = 100
MOST_RECIPIENTS = 10_000_000_000
Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(ge=1, le=MOST_RECIPIENTS, strict=True)]


class SimulatedMailcaster(MailcasterParameters):
    """One mailcaster, or several that are alike."""

    count: int = Field(default=1, ge=1, le=10_000)


class SimulatedRelay(Section):
    """A relay of the settings without its address, and with what it costs and can do."""

    name: Name
    weight: int = Field(default=1, ge=1)
    connections: int = Field(default=20, ge=1)
    limits: LimitSettings = LimitSettings()
    ramp: RampSettings | None = None
    reply_milliseconds: float | None = Field(default=None, gt=0, le=600_000)
    """From message to message of one connection; None: as it was measured."""
    tolerates_per_second: float | None = Field(default=None, gt=0)
    """More than this it answers with 421, and back-off follows (spec 6.7); None: whatever comes."""
    price_per_thousand: float | None = Field(default=None, ge=0)
    """None: that of `prices`."""


class Failures(Section):
    """Shares of attempts."""

    rejected: Share = 0.0
    """Refused for good, of every attempt."""
    deferred: Share = 0.0
    """Of first attempts, such as greylisted ones."""
    deferred_again: Share = 0.0
    """Of each later attempt."""

    @model_validator(mode="after")
    def _no_more_than_all(self) -> Failures:
        if self.rejected + max(self.deferred, self.deferred_again) > 1:
            raise ValueError("rejected and deferred are more than 1 together")
        return self


class DomainShare(Section):
    """How many of the recipients are of one domain."""

    domain: str = Field(min_length=1, max_length=255)
    """`*`: all other domains, each too small to meet a limit of its own."""
    share: Share
    failures: Failures | None = None
    """None: those of all."""


class Audience(Section):
    """Where the recipients come from."""

    imported: bool = True
    """Whether a list is imported first; False: the audience is there."""
    duplicates: float = Field(default=0.0, ge=0, lt=1)
    """Of the rows, those that dedup leaves out."""


class Hosts(Section):
    """What mailcasters and assembly run on."""

    count: int = Field(default=1, ge=1, le=10_000)
    cores: int = Field(default=2, ge=1, le=1024)
    database_cores: int | None = Field(default=None, ge=1, le=1024)
    """Of a host that the database has for itself; None: it runs on the first of the others."""


class Prices(Section):
    """In any currency."""

    host_hour: float = Field(default=0.0, ge=0)
    per_thousand_messages: float = Field(default=0.0, ge=0)
    """Of messages that relays accepted."""
    gigabyte_month: float = Field(default=0.0, ge=0)
    months_kept: float = Field(default=1.0, ge=0)


class Scenario(Section):
    """The whole file."""

    recipients: tuple[Size, ...] = ()
    begins_at: datetime | None = None
    """Without a zone: by the clocks of `time_zone`; None: now."""
    time_zone: TimeZoneName = "UTC"
    audience: Audience = Audience()
    mix: Annotated[tuple[DomainShare, ...], Field(min_length=1, max_length=MOST_DOMAINS)] = (
        DomainShare(domain=EACH_OTHER_DOMAIN, share=1.0),
    )
    failures: Failures = Failures()
    mailcasters: tuple[SimulatedMailcaster, ...] = ()
    relays: tuple[SimulatedRelay, ...] = ()
    domains: tuple[DomainSettings, ...] = ()
    send_window: SendWindowSettings | None = None
    dispatcher: DispatcherSettings = DispatcherSettings()
    hosts: Hosts = Hosts()
    prices: Prices = Prices()
    rates: Rates = Rates()

    @cached_property
    def zone(self) -> ZoneInfo:
        """Its time zone."""
        return ZoneInfo(self.time_zone)

    def reply_s(self, relay: SimulatedRelay) -> float:
        """Seconds from message to message of one connection."""
        return (relay.reply_milliseconds or self.rates.reply_milliseconds) / 1000

    @field_validator("recipients", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @field_validator("mix")
    @classmethod
    def _adds_up(cls, value: tuple[DomainShare, ...]) -> tuple[DomainShare, ...]:
        names = [each.domain for each in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names {', '.join(twice)} twice")
        if abs((total := sum(each.share for each in value)) - 1) > 1e-6:
            raise ValueError(f"the shares add up to {total:g}, and not to 1")
        return value

    @model_validator(mode="after")
    def _names_are_unique(self) -> Scenario:
        for section in ("mailcasters", "relays", "domains"):
            check_names(section, [each.name for each in getattr(self, section)])
        check_groups(self.domains)
        return self


def scenario_of(settings: Settings) -> dict[str, Any]:
    """The sections of a scenario that an installation's settings say already."""
    own = {"name", "weight", "connections", "limits", "ramp"}
    relays = [
        {key: value for key, value in relay.model_dump(mode="json").items() if key in own}
        for relay in settings.relays
    ]
    told = settings.model_dump(
        mode="json",
        by_alias=True,
        include={"time_zone", "mailcasters", "domains", "send_window", "dispatcher"},
    )
    return {**told, "relays": relays}


def read_scenario(
    file: Path | None, *, base: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> Scenario:
    """The scenario that a file names, on top of `base`, which `scenario_of` gives, and `given` on top of both.

    What is a mapping in both is laid over the other, key by key; anything else takes its place. Raises BadInput that
    names file, line and key, or the option.
    """
    values = dict(base)
    where = "the settings"
    if file is not None:
        where = str(file)
        named = read_yaml_file(file, model=Scenario)
        values = _laid_over(values, named.model_dump(mode="json", by_alias=True, exclude_unset=True))
    scenario = _validated(_laid_over(values, given or {}), where, given or {})
    _check_relays(scenario, where)
    return scenario


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: {**below[key], **value}
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **both}


def _validated(values: Mapping[str, Any], where: str, given: Mapping[str, Any]) -> Scenario:
    try:
        return Scenario.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        told = [
            f"{'the options' if each['loc'] and each['loc'][0] in given else where}: "
            f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}"
            for each in faults
        ]
        raise BadInput("\n".join(told)) from None


def _check_relays(scenario: Scenario, where: str) -> None:
    known = [relay.name for relay in scenario.relays]
    for section in ("relays", "mailcasters"):
        if not getattr(scenario, section):
            raise BadInput(f"{where}: {section}: neither the scenario nor the settings name any")
    for mailcaster in scenario.mailcasters:
        for name in mailcaster.relays:
            if name not in known:
                told = suggestion(name, known)
                raise BadInput(
                    f"{where}: mailcasters: {mailcaster.name}: there is no relay named {name!r}{told}"
                )

"""What a relay or a recipient domain may get: the sections `limits` and `domains` of the settings (6.7)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from mail_orchestration.kernel.addresses import normalise_address
from mail_orchestration.kernel.errors import BadAddress
from mail_orchestration.kernel.settings_section import Section

EACH_OTHER_DOMAIN = "*"
"""The name under `domains` that stands for every domain without a group, each by itself."""

_Most = Annotated[int, Field(ge=0, strict=True)]


class LimitSettings(Section):
    """The most messages in any window of that length, of all installations and hosts together; 0: no limit."""

    per_second: _Most = 0
    per_minute: _Most = 0
    per_hour: _Most = 0
    per_day: _Most = 0


class RampSettings(Section):
    """The most messages that a new relay gets on its first day, and by how much each further day has more."""

    messages_on_first_day: int = Field(ge=1, le=100_000_000)
    growth: float = Field(default=1.5, gt=1, le=100)
    since: date | None = None
    """The first day; None: the day on which anything was first sent to it."""


def _domain(value: str) -> str:
    try:
        return normalise_address(f"x@{value}").partition("@")[2]
    except BadAddress:
        raise ValueError(f"{value!r} is no domain of addresses") from None


class DomainSettings(Section):
    """Limits of one recipient domain, or of several that the same servers take mail for."""

    name: str = Field(min_length=1, max_length=255)
    """The domain itself where `domains` is left out; `*` is each domain that no group names, by itself."""
    domains: tuple[Annotated[str, AfterValidator(_domain)], ...] = ()
    limits: LimitSettings

    @model_validator(mode="after")
    def _names_domains(self) -> DomainSettings:
        if self.domains and self.name == EACH_OTHER_DOMAIN:
            raise ValueError(f"{EACH_OTHER_DOMAIN!r} stands alone, as a name without domains")
        if not self.domains and self.name != EACH_OTHER_DOMAIN:
            _domain(self.name)
        return self

    @property
    def members(self) -> tuple[str, ...]:
        """The domains that it speaks of, in the form that addresses are stored with; of `*` itself."""
        if self.domains or self.name == EACH_OTHER_DOMAIN:
            return self.domains or (self.name,)
        return (_domain(self.name),)


def check_groups(groups: Iterable[DomainSettings]) -> None:
    """Raises ValueError when a domain is in two groups."""
    group_of: dict[str, str] = {}
    for group in groups:
        for domain in group.members:
            if domain in group_of:
                raise ValueError(f"domains: {domain} is in {group_of[domain]!r} and in {group.name!r}")
            group_of[domain] = group.name

"""The section `frequency` of the settings: how often anybody may be written to (spec 8.1), and rules as written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from mail_orchestration.kernel.frequency import MOST_DAYS, Policy, Rule, Window, contradictions
from mail_orchestration.kernel.settings_section import Section


class FrequencyRuleSettings(Section):
    """One rule: at most so many mails in so many days."""

    max_mails: int = Field(ge=1, le=1_000_000, strict=True)
    days: int = Field(ge=1, le=MOST_DAYS, strict=True)
    active: bool = True

    @property
    def rule(self) -> Rule:
        """The same for the arithmetic."""
        return Rule(self.max_mails, self.days)


def _agree(rules: tuple[FrequencyRuleSettings, ...]) -> tuple[FrequencyRuleSettings, ...]:
    # Those that are not active too: switching one on is then never refused.
    if found := contradictions([each.rule for each in rules]):
        raise ValueError("; ".join(found))
    return rules


FrequencyRules = Annotated[tuple[FrequencyRuleSettings, ...], AfterValidator(_agree)]
"""Rules that go together."""
ShelfLifeDays = Annotated[int, Field(ge=1, le=MOST_DAYS, strict=True)]


def active_rules(rules: Iterable[FrequencyRuleSettings]) -> tuple[Rule, ...]:
    """Those that are active, narrowest first."""
    return tuple(sorted((each.rule for each in rules if each.active), key=lambda rule: rule.days))


class FrequencySettings(Section):
    """The policy of an installation: off until it is enabled."""

    enabled: bool = False
    window: Window = Window.ROLLING
    queue: bool = True
    """Whether what the rules forbid waits; else it is discarded."""
    count: bool = True
    """Whether mails of campaigns that do not say it count."""
    shelf_life_days: ShelfLifeDays = 7
    rules: FrequencyRules = ()

    @model_validator(mode="after")
    def _enabled_does_something(self) -> FrequencySettings:
        if self.enabled and not active_rules(self.rules):
            raise ValueError("it is enabled, and no rule is active")
        return self

    @property
    def policy(self) -> Policy | None:
        """The policy that is wished for; None when it is not enabled."""
        if not self.enabled:
            return None
        return Policy(
            rules=active_rules(self.rules),
            window=self.window,
            hold=self.queue,
            count=self.count,
            shelf_life_days=self.shelf_life_days,
        )

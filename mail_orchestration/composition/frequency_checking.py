"""What the check of a campaign says of its section `frequency` (spec 8.5)."""

from __future__ import annotations

from collections.abc import Iterator

from mail_orchestration.composition.definition import Campaign, fault_of
from mail_orchestration.composition.findings import Finding, Severity, placed
from mail_orchestration.kernel.errors import BadCampaign
from mail_orchestration.kernel.frequency import CampaignPolicy, expires_first, log_too_short
from mail_orchestration.kernel.settings import Settings


def frequency_findings(campaign: Campaign, settings: Settings | None) -> Iterator[Finding]:
    """Where the campaign departs from its installation's policy, and what of that does nothing or cannot be counted."""
    frequency = campaign.definition.frequency
    rules, policy = frequency.own_rules, frequency.policy
    if policy is CampaignPolicy.OVERRIDE_POLICY:
        yield _warning(
            campaign,
            "policy",
            "overrides the frequency policy: it goes out at once, however often its recipients were written to",
        )
    if frequency.count is False:
        yield _warning(campaign, "count", "its mails do not count for the frequency policy")
    if rules is not None and policy is CampaignPolicy.OVERRIDE_POLICY:
        yield _warning(campaign, "rules", f"do nothing beside policy: {policy}")
    elif rules is not None:
        told = ", ".join(map(str, rules))
        yield _warning(campaign, "rules", f"rules of its own hold in place of the installation's: {told}")
    if frequency.shelf_life_days is not None and policy is not CampaignPolicy.PER_POLICY:
        yield _warning(campaign, "shelf_life_days", f"does nothing beside policy: {policy}, as nothing waits")
    if settings is None:
        return
    if may_expire := _expires_first(campaign, settings):
        yield _warning(campaign, "shelf_life_days" if rules is None else "rules", may_expire)
    if fault := _beyond_the_log(campaign, settings.retention.daily_log_days):
        yield placed(Severity.ERROR, fault)


def refuse_rules_beyond_the_log(campaign: Campaign, daily_log_days: int) -> None:
    """Raise `BadCampaign` when rules of its own look at more days than the installation keeps the daily log for."""
    if fault := _beyond_the_log(campaign, daily_log_days):
        raise BadCampaign(fault)


def _expires_first(campaign: Campaign, settings: Settings) -> str | None:
    frequency, policy = campaign.definition.frequency, settings.frequency.policy
    if policy is None or not policy.hold or frequency.policy is not CampaignPolicy.PER_POLICY:
        return None
    rules, days = frequency.own_rules, frequency.shelf_life_days
    if rules is None and days is None:
        return None  # The policy's own: `frequency` tells of it, and not every campaign.
    return expires_first(rules or policy.rules, days or policy.shelf_life_days)


def _beyond_the_log(campaign: Campaign, daily_log_days: int) -> str | None:
    rules = campaign.definition.frequency.own_rules
    if rules is None or not (why := log_too_short(rules, daily_log_days)):
        return None
    return fault_of(campaign.files, "frequency.rules", why)


def _warning(campaign: Campaign, key: str, message: str) -> Finding:
    return placed(Severity.WARNING, fault_of(campaign.files, f"frequency.{key}", message))

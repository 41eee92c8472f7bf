"""What a campaign says of the frequency policy: frozen with its release, and refused where it cannot be counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.broadcast import fill_audience, release_campaign
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import BadCampaign
from mail_orchestration.kernel.frequency import CampaignPolicy, Rule
from mail_orchestration.kernel.frequency_settings import FrequencySettings
from mail_orchestration.kernel.retention_settings import RetentionSettings
from mail_orchestration.kernel.settings_section import Section
from tests.integration.broadcast_site import NOW, campaign, inst, made, site
from tests.scenarios.installations import tally

__all__ = ["inst", "site"]


def of_settings(inst: Installation, **sections: Section) -> Installation:
    """The same installation with other settings."""
    return replace(inst, settings=inst.settings.model_copy(update=sections))


@pytest.mark.rule("3.5")
@pytest.mark.rule("8.5")
@pytest.mark.parametrize(
    ("keys", "frozen"),
    [
        ({}, (CampaignPolicy.PER_POLICY, None, None, True)),
        (
            {
                "frequency": {
                    "policy": "per_policy_do_not_queue",
                    "count": False,
                    "shelf_life_days": 3,
                    "rules": [
                        {"max_mails": 5, "days": 7},
                        {"max_mails": 9, "days": 30, "active": False},
                        {"max_mails": 1, "days": 1},
                    ],
                }
            },
            (CampaignPolicy.PER_POLICY_DO_NOT_QUEUE, (Rule(1, 1), Rule(5, 7)), 3, False),
        ),
        (
            {
                "state": "test",
                "test_addresses": ["a@example.com"],
                "frequency": {"count": True, "rules": [{"max_mails": 5, "days": 7}]},
            },
            (CampaignPolicy.OVERRIDE_POLICY, None, None, False),
        ),
    ],
)
def test_what_the_frequency_policy_is_for_a_campaign_is_frozen(
    inst: Installation, site: Path, keys: dict[str, object], frozen: tuple[object, ...]
) -> None:
    fill_audience(inst, "everybody", now=NOW)
    made = release_campaign(inst, campaign(site, **keys), now=NOW)
    assert (made.frequency_policy, made.frequency_rules, made.shelf_life_days, made.counts) == frozen


@pytest.mark.rule("3.5")
@pytest.mark.rule("8.5")
def test_in_test_a_campaign_is_outside_the_frequency_policy(inst: Installation, site: Path) -> None:
    one_in_thirty_days = {"enabled": True, "rules": [{"max_mails": 1, "days": 30}]}
    inst = of_settings(inst, frequency=FrequencySettings.model_validate(one_in_thirty_days))

    def places() -> int:
        with inst.database.begin() as connection:
            return int(connection.execute(text("SELECT sum(places) FROM frequency_counter")).scalar_one())

    made(inst, campaign(site))
    assert places() == 300
    trial = {"state": "test", "test_addresses": ["r1@example.net"]}
    in_test = made(inst, campaign(site, name="trial", **trial))
    live = made(inst, campaign(site, name="other"))
    assert (tally(inst, in_test).held, tally(inst, live).held) == (0, 300)
    assert places() == 300


@pytest.mark.rule("8.5")
def test_rules_of_a_campaigns_own_need_a_daily_log_that_is_long_enough(
    inst: Installation, site: Path
) -> None:
    fill_audience(inst, "everybody", now=NOW)
    inst = of_settings(inst, retention=RetentionSettings(daily_log_days=100))
    folder = campaign(site, frequency={"rules": [{"max_mails": 1, "days": 98}]})
    assert release_campaign(inst, folder, now=NOW).frequency_rules == (Rule(1, 98),)
    folder = campaign(site, frequency={"rules": [{"max_mails": 1, "days": 99}]})
    with pytest.raises(BadCampaign, match=r"^campaign\.yaml:\d+: frequency\.rules: .*daily_log_days of 101"):
        release_campaign(inst, folder, now=NOW)


@pytest.mark.rule("8.5")
def test_whether_it_counts_is_as_the_installation_says(inst: Installation, site: Path) -> None:
    fill_audience(inst, "everybody", now=NOW)
    inst = of_settings(inst, frequency=FrequencySettings(count=False))
    assert not release_campaign(inst, campaign(site), now=NOW).counts
    assert release_campaign(inst, campaign(site, frequency={"count": True}), now=NOW).counts

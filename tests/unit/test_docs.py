"""The documentation says what the code says: every key, table, reason and rule, and what Dagster shows."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePath

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mail_orchestration.audience.handover import LEFT_AUDIENCE
from mail_orchestration.audience.rows import RejectCode
from mail_orchestration.composition.definition import CampaignDefinition
from mail_orchestration.composition.definition_parts import AttachmentSpec, Frequency, Schedule
from mail_orchestration.composition.errors import FaultReason
from mail_orchestration.kernel.dkim_settings import DkimSettings
from mail_orchestration.kernel.fleet_settings import DispatcherSettings, MailcasterParameters
from mail_orchestration.kernel.frequency_settings import FrequencyRuleSettings, FrequencySettings
from mail_orchestration.kernel.limit_settings import DomainSettings, LimitSettings, RampSettings
from mail_orchestration.kernel.relay_settings import RelaySettings
from mail_orchestration.kernel.retention_settings import RetentionSettings
from mail_orchestration.kernel.settings import AudienceSettings, DagsterSettings, Settings
from mail_orchestration.simulation.rates import Rates
from mail_orchestration.simulation.scenario import (
    Audience,
    DomainShare,
    Failures,
    Hosts,
    Prices,
    Scenario,
    SimulatedMailcaster,
    SimulatedRelay,
)
from tests import rules
from tests.unit.docs_pages import ROOT, read, rows, sections

RULES_OF_SECTION = {1: 8, 2: 8, 3: 7, 4: 6, 5: 8, 6: 8, 7: 4, 8: 9, 9: 5, 10: 5, 11: 4}


def keys_and_defaults(text: str) -> dict[str, str]:
    """Key → default of a table whose first cells are `key` and default."""
    return {cells[0].strip("`"): cells[1] for cells in rows(text) if cells[0].startswith("`")}


def said_default(field: FieldInfo) -> str | None:
    """How the page must give the default; None where it may use words."""
    if field.is_required():
        return "required"
    match field.get_default(call_default_factory=True):
        case bool() as value:
            return f"`{str(value).lower()}`"
        case int() | float() as value:
            return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
        case str() | PurePath() as value:
            return f"`{value}`"
        case _:
            return None


def expect_keys(text: str, model: type[BaseModel], *, but: Collection[str] = ()) -> None:
    """The table names every key of the model and no other, with its default; but not those of another page."""
    fields = {
        field.alias or name: field
        for name, field in model.model_fields.items()
        if not field.exclude and name not in but
    }
    said = keys_and_defaults(text)
    assert sorted(said) == sorted(fields)
    wrong = {
        key: (said[key], due)
        for key, field in fields.items()
        if (due := said_default(field)) is not None and said[key] != due
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("Top level", Settings),
        ("dispatcher", DispatcherSettings),
        ("retention", RetentionSettings),
        ("frequency", FrequencySettings),
        ("rules", FrequencyRuleSettings),
        ("dagster", DagsterSettings),
        ("relays", RelaySettings),
        ("limits", LimitSettings),
        ("ramp", RampSettings),
        ("domains", DomainSettings),
        ("dkim", DkimSettings),
        ("mailcasters", MailcasterParameters),
        ("audiences", AudienceSettings),
    ],
)
def test_settings_page_names_every_key_and_default(section: str, model: type[BaseModel]) -> None:
    expect_keys(sections(read("reference/settings.md"), "##")[section], model)


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("Top level", CampaignDefinition),
        ("frequency", Frequency),
        ("attachments", AttachmentSpec),
        ("schedule", Schedule),
    ],
)
def test_campaign_page_names_every_key_and_default(section: str, model: type[BaseModel]) -> None:
    expect_keys(sections(read("reference/campaign.md"), "##")[section], model)


@pytest.mark.parametrize(
    ("section", "model", "elsewhere"),
    [
        ("Top level", Scenario, None),
        ("audience", Audience, None),
        ("mix", DomainShare, None),
        ("failures", Failures, None),
        ("mailcasters", SimulatedMailcaster, MailcasterParameters),
        ("relays", SimulatedRelay, None),
        ("hosts", Hosts, None),
        ("prices", Prices, None),
        ("rates", Rates, None),
    ],
)
def test_scenario_page_names_every_key_and_default(
    section: str, model: type[BaseModel], elsewhere: type[BaseModel] | None
) -> None:
    text = sections(read("reference/scenario.md"), "##")[section]
    expect_keys(text, model, but=elsewhere.model_fields if elsewhere else ())


def statuses() -> dict[str, str]:
    """Rule → status, as the page of behaviour gives them."""
    found = {}
    for heading, text in sections(read("reference/behaviour.md"), "###").items():
        status = re.match(r"\s*\*Status: (done|planned|partly: \S.*)\*\n", text)
        assert status is not None, f"{heading} has no status"
        found[heading.split()[0]] = status.group(1)
    return found


def test_behaviour_page_has_every_rule_once_with_its_status() -> None:
    expected = [
        f"{section}.{rule}" for section, last in RULES_OF_SECTION.items() for rule in range(1, last + 1)
    ]
    assert list(statuses()) == expected
    assert [rule for rule in rules.rules_of(read("reference/behaviour.md")) if rule in expected] == expected


def test_what_is_built_is_not_called_planned() -> None:
    built = {rule for numbers in rules.BUILT.values() for rule in numbers.split()}
    assert [rule for rule, status in statuses().items() if status == "planned" and rule in built] == []


def test_what_is_done_is_counted_among_what_is_built() -> None:
    """So that `make rules` looks for a test of it."""
    built = {rule for numbers in rules.BUILT.values() for rule in numbers.split()}
    assert [rule for rule, status in statuses().items() if status == "done" and rule not in built] == []


def test_schema_page_names_every_table() -> None:
    schema = (ROOT / "mail_orchestration/sql/schema.sql").read_text(encoding="utf-8")
    tables = re.findall(r"^CREATE TABLE (\w+)", schema, re.MULTILINE)
    partitioned = re.findall(
        r"^CREATE TABLE (\w+) \((?:(?!^\)).)*^\) PARTITION BY", schema, re.MULTILINE | re.DOTALL
    )
    said = {
        cells[0].strip("`"): cells[2] for cells in rows(sections(read("reference/schema.md"), "##")["Tables"])
    }
    assert sorted(said) == sorted(tables)
    assert sorted(table for table, by in said.items() if by) == sorted(partitioned)


def test_reasons_are_all_explained() -> None:
    bypassed = read("how-to/bypassed-recipients.md")
    assert [reason for reason in (*FaultReason, LEFT_AUDIENCE) if f"`{reason}`" not in bypassed] == []
    rejected = rows(sections(read("how-to/import-audiences.md"), "##")["Rows that are set aside"])
    assert sorted(cells[0].strip("`") for cells in rejected) == sorted(RejectCode)


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_metadata_page_names_what_dagster_shows() -> None:
    from schedules.definitions import defs

    said = sections(read("reference/metadata.md"), "##")
    graph = defs.resolve_asset_graph()
    assert {cells[0].strip("`") for cells in rows(said["Assets"])} == {
        key.to_user_string() for key in graph.get_all_asset_keys()
    }
    assert {cells[0].strip("`") for cells in rows(said["Checks"])} == {
        key.name for key in graph.asset_check_keys
    }
    jobs = {cells[0].strip("`") for cells in rows(said["Jobs, sensors, schedules"])}
    assert jobs == {job.name for job in defs.jobs or ()}
    started = [*(defs.sensors or ()), *(defs.schedules or ())]
    named = said["Jobs, sensors, schedules"]
    assert [each.name for each in started if f"`{each.name}`" not in named] == []

"""The documentation says what the code says: every key, command, option, exit code, table and rule; and its links lead
somewhere."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mail_orchestration.audience.handover import LEFT_AUDIENCE
from mail_orchestration.audience.rows import RejectCode
from mail_orchestration.cli.exit_codes import MEANING
from mail_orchestration.composition.definition import CampaignDefinition
from mail_orchestration.composition.definition_parts import AttachmentSpec, Frequency, Schedule
from mail_orchestration.composition.errors import FaultReason
from mail_orchestration.kernel.fleet_settings import DispatcherSettings, MailcasterParameters
from mail_orchestration.kernel.frequency_settings import FrequencyRuleSettings, FrequencySettings
from mail_orchestration.kernel.limit_settings import DomainSettings, LimitSettings, RampSettings
from mail_orchestration.kernel.relay_settings import RelaySettings
from mail_orchestration.kernel.retention_settings import RetentionSettings
from mail_orchestration.kernel.settings import AudienceSettings, DagsterSettings, Settings
from tests import rules

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *DOCS.rglob("*.md"),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "examples/README.md",
    ]
)

RULES_OF_SECTION = {1: 8, 2: 8, 3: 7, 4: 6, 5: 8, 6: 8, 7: 4, 8: 9, 9: 5, 10: 5, 11: 4}

_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`(mail-orchestration [^`\n]+)`")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def read(page: str | Path) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def sections(text: str, level: str) -> dict[str, str]:
    """Text under each heading of this level, up to the next one of it."""
    parts = re.split(rf"^{level} +(.+?) *$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of a page's tables, without their heads."""
    found = [
        [cell.strip() for cell in line.strip()[1:-1].split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    marks = [number for number, cells in enumerate(found) if set("".join(cells)) <= set("-:| ")]
    heads = {number for mark in marks for number in (mark, mark - 1)}
    return [cells for number, cells in enumerate(found) if number not in heads]


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


def expect_keys(text: str, model: type[BaseModel]) -> None:
    """The table names every key of the model and no other, with its default."""
    fields = {field.alias or name: field for name, field in model.model_fields.items() if not field.exclude}
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


def commands() -> dict[str, Any]:
    """Every command by its words, such as `mailcaster run`."""
    import typer

    from mail_orchestration.cli.commands import app

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        below = getattr(command, "commands", None)
        if not below:
            yield " ".join(words), command
            return
        for name, each in below.items():
            yield from walk(each, (*words, name))

    return dict(walk(typer.main.get_command(app), ()))


def options_of(command: Any) -> set[str]:
    return {option for each in command.params for option in each.opts if option.startswith("-")}


COMMON_OPTIONS = {"--json", "--settings", "-s", "--debug"}


def test_command_line_page_names_every_command_and_option() -> None:
    said = {heading.strip("`"): text for heading, text in sections(read("reference/cli.md"), "###").items()}
    known = commands()
    assert sorted(said) == sorted(known)
    for name, command in known.items():
        text = said[name].partition("\n## ")[0]
        told = set(re.findall(r"`(--?[a-z-]+)`", " ".join(cells[0] for cells in rows(text))))
        assert told == options_of(command) - COMMON_OPTIONS, name


def test_command_line_page_names_the_exit_codes() -> None:
    said = {cells[0]: cells[1] for cells in rows(sections(read("reference/cli.md"), "##")["Exit codes"])}
    assert said == {str(int(code)): meaning for code, meaning in MEANING.items()}


def shown_command_lines() -> Iterator[tuple[str, str]]:
    """Each command line that a page shows, in a fence or within a sentence, without what a pipe does with it."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line for _, _, block in _FENCE.findall(text) for line in block.splitlines()]
        for line in [*lines, *_INLINE.findall(text)]:
            for part in re.split(r" \| | && ", line.strip()):
                if part.startswith("mail-orchestration ") and "[" not in part and "COMMAND" not in part:
                    yield page.relative_to(ROOT).as_posix(), part


@pytest.mark.parametrize(("page", "line"), sorted(set(shown_command_lines())))
def test_shown_command_line_can_be_typed(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words == ["--version"]:
        return
    known = commands()
    name = next((name for name in known if words[: len(name.split())] == name.split()), None)
    assert name is not None, f"{page}: there is no such command: {line}"
    command, rest = known[name], words[len(name.split()) :]
    options = {option: each for each in command.params for option in each.opts if option.startswith("-")}
    arguments = [each for each in command.params if not each.opts[0].startswith("-")]
    given = []
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            assert word in options, f"{page}: {name} has no option {word}"
            if not options[word].is_flag:
                assert rest, f"{page}: {word} needs a value"
                rest.pop(0)
        else:
            given.append(word)
    # A sentence may name a command without what it needs.
    assert not given or len(given) >= sum(each.required for each in arguments), line
    assert len(given) <= len(arguments) or any(each.nargs == -1 for each in arguments), line


def test_shown_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = "\n".join(block for _, _, block in _FENCE.findall(text))
        shown = set(re.findall(r"^make ([a-z]+)", blocks, re.MULTILINE)) | set(
            re.findall(r"`make ([a-z]+)`", text)
        )
        assert shown <= targets, page


def slug(heading: str) -> str:
    """The anchor that Python-Markdown makes of a heading."""
    text = unicodedata.normalize("NFKD", heading.replace("`", "")).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"there is no {target}"
        if DOCS in page.parents:
            assert DOCS in file.parents, f"{target} is not part of the site"
        if anchor:
            headings = _HEADING.findall(_FENCE.sub("", file.read_text(encoding="utf-8")))
            assert anchor in {slug(heading) for heading in headings}, f"there is no heading for {target}"


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"\S+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert named == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


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


def test_the_site_asks_no_other_server() -> None:
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in configuration
    # With it the theme loads Mermaid from a CDN.
    assert "custom_fences" not in configuration
    for page in DOCS.rglob("*.md"):
        text = _FENCE.sub("", page.read_text(encoding="utf-8"))
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(script|img|iframe)\b", re.sub(r"`[^`]*`", "", text)), (
            page
        )

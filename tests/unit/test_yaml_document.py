"""YAML errors name file, line and key."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, Field

from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.yaml_document import read_yaml


class Schedule(BaseModel):
    model_config = ConfigDict(extra="forbid")
    cron: str


class Document(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    priority: int = 0
    from_: str = Field(default="", alias="from")
    schedule: Schedule | None = None
    schedules: list[Schedule] = []


def read(text: str | bytes) -> Document:
    return read_yaml(text, file="campaign.yaml", model=Document)


@pytest.mark.rule("2.1")
@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("name: a\nprority: 1\n", ["campaign.yaml:2: prority: unknown key; did you mean 'priority'?"]),
        ("name: a\nform: x\n", ["campaign.yaml:2: form: unknown key; did you mean 'from'?"]),
        ("priority: 1\n", ["campaign.yaml:1: name: is missing"]),
        ("name: a\nschedule:\n  cron: x\n  crn: y\n", ["campaign.yaml:4: schedule.crn: unknown key"]),
        ("name: a\nschedules:\n  - cron: x\n  - {}\n", ["campaign.yaml:4: schedules[1].cron: is missing"]),
        ("name: a\npriority: high\nx: 1", ["campaign.yaml:2: priority: ", "campaign.yaml:3: x: unknown key"]),
        ("name: a\nname: b\n", ["campaign.yaml:2: name: stands twice, first on line 1"]),
        ("name: [a\n", ["campaign.yaml:2: expected"]),
        ("- a\n", ["campaign.yaml:1: expected a mapping"]),
        ("name: &a b\npriority: *a\n", ["campaign.yaml:2: aliases"]),
        ("name: a\n? [x]\n: y\n", ["campaign.yaml:2: a key must be a plain word"]),
        ("name: a\nfrom: !!python/object:os.system x\n", ["campaign.yaml:2: could not determine"]),
        (b"name: a\nfrom: \xff\n", ["campaign.yaml:2: is not UTF-8 (byte 0xff)"]),
        ("name: a\nfrom: \x00\n", ["campaign.yaml:2: the control character U+0000"]),
        ("name: " + "[" * 3000, ["campaign.yaml"]),
        ("", ["campaign.yaml:1: name: is missing"]),
    ],
)
def test_says_file_line_and_key(text: str | bytes, messages: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        read(text)
    for line, message in zip(str(caught.value).splitlines(), messages, strict=True):
        assert message in line


@pytest.mark.parametrize("word", ["on", "no", "NO", "12:30", "2026-01-01", "0x10", "1_000", "=", "<<x"])
def test_words_stay_words(word: str) -> None:
    assert read(f"name: {word}\n").name == word


def test_values_of_the_core_schema() -> None:
    document = read("\ufeffname: ä\npriority: -3\nschedule: null\n".encode())
    assert (document.name, document.priority, document.schedule) == ("ä", -3, None)

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mail_orchestration.kernel.components import Component, find_component, load_components, run_components
from mail_orchestration.kernel.errors import ComponentFailed, NotFound
from mail_orchestration.kernel.model import Bypass, Recipient

_MODULE = """
from mail_orchestration.kernel.model import Bypass

class Rules:
    @staticmethod
    def even(batch):
        return [Bypass(recipient_no=r.recipient_no, reason="even") for r in batch if r.recipient_no % 2 == 0]

def above_five(batch):
    for r in batch:
        if r.recipient_no > 5:
            yield Bypass(recipient_no=r.recipient_no, reason="above_five", detail="too many")

def nothing(batch):
    return None

def raises(batch):
    raise KeyError(batch[0].address)

number = 7
"""

_BATCH = [Recipient(recipient_no=n, contact_id=n, address=f"r{n}@example.com") for n in range(1, 9)]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "shop_rules.py").write_text(_MODULE)
    (tmp_path / "broken_rules.py").write_text("1 / 0")
    information = tmp_path / "shop-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: shop\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[mail_orchestration.components]\nshop-even = shop_rules:Rules.even\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "shop_rules"
    sys.modules.pop("shop_rules", None)


def _component(function: object, stage: str = "filter") -> Component:
    return Component(name="rules:it", stage=stage, function=function)  # type: ignore[arg-type]


@pytest.mark.rule("1.6")
def test_found_by_dotted_path_and_entry_point_and_called_in_turn(module: str) -> None:
    components = load_components(
        {"filter": ["shop-even", f"{module}:above_five", f"{module}:nothing"]}, "filter"
    )
    found = run_components(components, _BATCH)
    assert [(each.name, bypass.recipient_no, bypass.reason) for each, bypass in found] == [
        *(("shop-even", number, "even") for number in (2, 4, 6, 8)),
        ("shop_rules:above_five", 7, "above_five"),
    ]
    assert load_components({"filter": ["shop-even"]}, "preprocess") == ()


@pytest.mark.rule("1.6")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shop_rules:missing", "missing"),
        ("no_such_module:x", "no_such_module"),
        ("no-such-entry-point", "shop-even"),
        ("shop_rules:number", "cannot be called"),
    ],
)
def test_what_cannot_be_found_is_named(module: str, name: str, words: str) -> None:
    with pytest.raises(NotFound) as raised:
        find_component(name, "preprocess")
    assert name in str(raised.value)
    assert "preprocess" in str(raised.value)
    assert words in str(raised.value)


@pytest.mark.rule("1.6")
def test_a_component_that_raises_is_named_with_its_stage_but_no_recipient_is(module: str) -> None:
    with pytest.raises(ComponentFailed) as raised:
        run_components([find_component(f"{module}:raises", "filter")], _BATCH)
    message = str(raised.value)
    assert "shop_rules:raises" in message
    assert "stage filter" in message
    assert "KeyError at shop_rules.py:18" in message
    assert "@" not in message
    assert raised.value.__suppress_context__
    with pytest.raises(ComponentFailed, match=r"broken_rules:x.*ZeroDivisionError"):
        find_component("broken_rules:x", "filter")


@pytest.mark.rule("1.6")
@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([3], "returned int"),
        ([Bypass(recipient_no=99, reason="x")], "99"),
        ([Bypass(recipient_no=1, reason="")], "reason"),
        ([Bypass(recipient_no=1, reason="With Spaces")], "reason"),
        (7, "TypeError"),
    ],
)
def test_what_a_component_returns_is_checked(returned: object, words: str) -> None:
    with pytest.raises(ComponentFailed, match=words):
        run_components([_component(lambda batch: returned)], _BATCH)


def test_a_fault_in_the_middle_of_a_generator_is_the_components() -> None:
    def half(batch: Sequence[Recipient]) -> Iterator[Bypass]:
        yield Bypass(recipient_no=1, reason="first")
        raise RuntimeError

    with pytest.raises(ComponentFailed, match="RuntimeError"):
        run_components([_component(half)], _BATCH)


def test_a_component_after_the_last_recipient_is_not_called() -> None:
    everybody = _component(lambda batch: [Bypass(recipient_no=r.recipient_no, reason="no") for r in batch])
    never = _component(lambda batch: 1 / 0)
    assert len(run_components([everybody, never], _BATCH)) == len(_BATCH)

"""The figures of benchmarks: medians, ratios, targets, and the table and JSON in which they are told."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.harness import command_line
from benchmarks.harness.gathered import Gathered, write_figures
from benchmarks.harness.machine import machine
from benchmarks.harness.measurements import Measurement, Target, as_document, from_document, table

ROOT = Path(__file__).parents[2]


def measurement(
    runs: tuple[float, ...] = (800.0, 1000.0, 900.0),
    reference_runs: tuple[float, ...] = (1000.0, 1000.0, 2000.0),
    target: Target | None = None,
) -> Measurement:
    return Measurement(
        name="delivery",
        unit="messages/s",
        runs=runs,
        reference="smtp-source",
        reference_runs=reference_runs,
        target=target,
        goal=1,
    )


def test_the_ratio_is_of_the_medians_and_the_spread_of_single_runs() -> None:
    found = measurement()
    assert (found.value, found.reference_value, found.ratio) == (900.0, 1000.0, 0.9)
    assert found.spread == (0.45, 1.0)


def test_a_reference_that_is_a_limit_stands_beside_every_run() -> None:
    found = measurement(runs=(75.0, 90.0, 60.0), reference_runs=(300.0,))
    assert (found.ratio, found.spread) == (0.25, (0.2, 0.3))


@pytest.mark.parametrize(
    ("target", "is_reached"),
    [
        (None, None),
        (Target(at_least=0.9), True),
        (Target(at_least=0.91), False),
        (Target(at_most=0.9), True),
        (Target(at_most=0.89), False),
        (Target(at_least=0.8, at_most=1.0), True),
        (Target(at_least=0.8, at_most=0.85), False),
        (Target(at_least=900, of="value"), True),
        (Target(at_least=901, of="value"), False),
    ],
)
def test_a_target_is_of_the_ratio_or_of_the_value(target: Target | None, is_reached: bool | None) -> None:
    assert measurement(target=target).is_reached is is_reached


def test_a_measurement_comes_back_from_json() -> None:
    for target in (None, Target(at_least=1.0), Target(at_most=10_000, of="value")):
        found = measurement(target=target)
        document = json.loads(json.dumps(as_document(found)))
        assert from_document(document) == found
        assert document["ratio"] == 0.9


def test_the_table_tells_figure_reference_target_and_whether_it_is_reached() -> None:
    head, _, missed, kept = table(
        [
            measurement(target=Target(at_least=1.0)),
            measurement(target=Target(at_most=10_000, of="value")),
        ]
    ).splitlines()
    assert (
        head
        == "| goal | what | median | reference | its median | ratio | of single runs | target | reached |"
    )
    told = "| 1 | delivery | 900 messages/s | smtp-source | 1,000 messages/s | 0.90 | 0.45 to 1.00 |"
    assert missed == f"{told} ≥ 1 × | **NO** |"
    assert kept == f"{told} ≤ 10,000 messages/s | yes |"


def gathered(name: str, exit_code: int = 0, *measurements: Measurement) -> Gathered:
    return Gathered(
        name=name,
        command=f"python -m benchmarks.{name}",
        seconds=1.5,
        exit_code=exit_code,
        measurements=measurements,
    )


def test_the_figures_of_all_benchmarks_are_one_table_by_goal_and_one_document(tmp_path: Path) -> None:
    without_goal = Measurement(
        name="cleaning", unit="s", runs=(2.0,), reference="DELETE", reference_runs=(1.0,)
    )
    ran = [
        gathered("clean_up", 0, without_goal),
        gathered("delivery", 0, measurement(target=Target(at_least=1.0))),
        gathered("dkim", 1),
    ]
    text = write_figures(tmp_path, ran, {"cores": "2", "Python": "3.13.1"}, is_quick=True)
    assert text == (tmp_path / "figures.md").read_text(encoding="utf-8")
    assert text.index("| delivery |") < text.index("| cleaning |"), "goals come first"
    assert "cores: 2, Python: 3.13.1." in text
    assert "0 of 1 targets are reached" in text
    assert "Small sizes" in text
    assert "| dkim | `python -m benchmarks.dkim` | 2, **it broke** |" in text
    document = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert document["machine"] == {"cores": "2", "Python": "3.13.1"}
    assert [each["exit_code"] for each in document["benchmarks"]] == [0, 0, 1]
    (found,) = document["benchmarks"][1]["measurements"]
    assert found["is_reached"] is False


@dataclass(frozen=True, kw_only=True)
class Sizes:
    contacts: int = 100_000
    rounds: int = 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Sizes()),
        (["--contacts", "7"], Sizes(contacts=7)),
        (["--quick"], Sizes(contacts=10, rounds=1)),
        (["--quick", "--rounds", "2"], Sizes(contacts=10, rounds=2)),
    ],
)
def test_sizes_are_options_and_quick_ones_are_small(
    arguments: list[str], expected: Sizes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Sizes] = []

    def measure(sizes: Sizes) -> list[Measurement]:
        seen.append(sizes)
        return [measurement()]

    document = tmp_path / "one.json"
    command_line.run(
        "About.\n",
        measure,
        full=Sizes(),
        quick=Sizes(contacts=10, rounds=1),
        arguments=[*arguments, "--json", str(document)],
    )
    assert seen == [expected]
    assert capsys.readouterr().out.strip() == table([measurement()]).strip()
    assert [from_document(each) for each in json.loads(document.read_text())] == [measurement()]


def test_every_benchmark_is_run_by_the_harness_and_named_in_the_docs() -> None:
    files = (ROOT / "benchmarks").glob("*.py")
    assert set(BENCHMARKS) == {
        path.stem for path in files if "command_line.run(" in path.read_text(encoding="utf-8")
    }
    docs = (ROOT / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
    assert [name for name in BENCHMARKS if f"`python -m benchmarks.{name}`" not in docs] == []


def test_the_machine_is_told_without_its_name() -> None:
    told = machine("18.1")
    assert {"cores", "PostgreSQL", "Python"} <= told.keys()
    assert platform.node() not in told.values()
    assert not any("/" in value for value in told.values())

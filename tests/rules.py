"""`python tests/rules.py`: every rule that is built must be shown by a test.

Lists those that are not, and exits with 1. The rules are those of docs/reference/behaviour.md; a test names the ones it
shows: `@pytest.mark.rule("4.4")`. Read from the source, so that it takes no database and no second.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEHAVIOUR = ROOT / "docs" / "reference" / "behaviour.md"

BUILT: dict[str, str] = {
    "the main job, end to end": """
        1.1 1.2 1.3 1.4 1.5 1.6 1.7 1.8
        2.1 2.2 2.3 2.4 2.5 2.7 2.8
        3.1 3.2 3.3 3.7
        4.1 4.2 4.3 4.4 4.5 4.6
        5.1 5.5 5.7
        6.4 6.8
        11.1 11.3
    """,
    "messages are signed": "2.6",
    "the fleet survives anything": "3.4 5.2 5.3 5.4 5.6 5.8",
    "the global queue": "6.1 6.2 6.3 6.5 6.6 6.7 7.1 7.2 7.3 7.4",
    "nobody is written to too often": "3.5 8.1 8.2 8.3 8.4 8.5 8.6 8.7 8.8 8.9",
}
"""What has been built so far, and the rules that came with it, in whole or in the part that was asked for: the page on
behaviour says which."""

_RULE = re.compile(r"^(?:#+ |\*\*|- )?(\d{1,2}\.\d{1,2})\b", re.MULTILINE)


def rules_of(text: str) -> list[str]:
    """The numbers of the rules in the page, in its order."""
    return list(dict.fromkeys(_RULE.findall(text)))


def marks_in(source: str) -> Iterator[tuple[str, int]]:
    """Each rule that a `pytest.mark.rule(…)` in `source` names, and its line."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="mark"), attr="rule"), args=arguments):
                for argument in arguments:
                    if isinstance(argument, ast.Constant):
                        yield str(argument.value), argument.lineno
            case _:
                pass


def faults() -> list[str]:
    """What is wrong, one line each."""
    known = rules_of(BEHAVIOUR.read_text(encoding="utf-8"))
    shown: set[str] = set()
    found = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for rule, line in marks_in(file.read_text(encoding="utf-8")):
            shown.add(rule)
            if rule not in known:
                found.append(f"{file.relative_to(ROOT)}:{line}: there is no rule {rule}")
    for built, rules in BUILT.items():
        for rule in rules.split():
            if rule not in known:
                found.append(f"tests/rules.py: {built}: there is no rule {rule}")
            elif rule not in shown:
                found.append(f"rule {rule} ({built}) has no test")
    return found


def main() -> int:
    """Print the faults; 1 when there are any."""
    if not BEHAVIOUR.exists():
        print(f"there is no {BEHAVIOUR.relative_to(ROOT)}")
        return 1
    found = faults()
    for fault in found:
        print(fault)
    if not found:
        print(f"{sum(len(rules.split()) for rules in BUILT.values())} rules are built, and each has a test")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

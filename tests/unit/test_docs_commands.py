"""Command lines that the documentation shows can be typed; its page names every command, option and exit code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from mail_orchestration.cli.exit_codes import MEANING
from tests.unit.docs_pages import FENCE, PAGES, ROOT, read, rows, sections

_INLINE = re.compile(r"`(mail-orchestration [^`\n]+)`")


def commands() -> dict[str, Any]:
    """Every command by its words, such as `mailcaster run`; of a group also what it does without a command."""
    import typer

    from mail_orchestration.cli.commands import app

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        below = getattr(command, "commands", None)
        if not below:
            yield " ".join(words), command
            return
        if words and command.invoke_without_command:
            yield " ".join(words), command
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
        lines = [line for _, _, block in FENCE.findall(text) for line in block.splitlines()]
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
    named = [name for name in known if words[: len(name.split())] == name.split()]
    assert named, f"{page}: there is no such command: {line}"
    name = max(named, key=len)
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
        blocks = "\n".join(block for _, _, block in FENCE.findall(text))
        shown = set(re.findall(r"^make ([a-z]+)", blocks, re.MULTILINE)) | set(
            re.findall(r"`make ([a-z]+)`", text)
        )
        assert shown <= targets, page

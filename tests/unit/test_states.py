"""The states of mail jobs: the table of ways between them, and the diagram in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mail_orchestration.kernel.loose_mail_states import LOOSE_MAIL_TRANSITIONS, LooseMailState
from mail_orchestration.kernel.states import ENDED, TRANSITIONS, MailJobState

_REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
_PAGE = _REFERENCE / "mail-job-states.md"
_LOOSE_PAGE = _REFERENCE / "loose-mail-states.md"
_ARROW = re.compile(r"^\s+(\w+) --> (\w+):", re.MULTILINE)
_FINAL = re.compile(r"^\s+(\w+) --> \[\*\]$", re.MULTILINE)
_ROW = re.compile(r"^\| (\w+) \| ([\w, ]+) \| ", re.MULTILINE)


@pytest.mark.rule("3.2")
def test_the_diagram_shows_every_way_and_no_other() -> None:
    drawn = _ARROW.findall(_PAGE.read_text(encoding="utf-8"))
    known = {
        (leaves.value, enters.value) for leaves, all_enters in TRANSITIONS.items() for enters in all_enters
    }
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == known


@pytest.mark.rule("3.2")
def test_the_diagram_ends_where_nothing_leads_on() -> None:
    drawn = set(_FINAL.findall(_PAGE.read_text(encoding="utf-8")))
    assert drawn == {state.value for state, enters in TRANSITIONS.items() if not enters}


@pytest.mark.rule("3.2")
def test_the_page_has_a_row_for_each_state() -> None:
    rows = [state for state, _ in _ROW.findall(_PAGE.read_text(encoding="utf-8")) if state != "state"]
    assert rows == list(dict.fromkeys(rows))
    assert set(rows) == {state.value for state in MailJobState}


@pytest.mark.rule("3.2")
def test_every_state_has_its_ways_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(MailJobState)
    reached = {MailJobState.QUEUING}.union(*TRANSITIONS.values())
    assert reached == set(MailJobState)


def test_what_has_ended_leads_on_only_by_a_restart() -> None:
    restarts = {MailJobState.RECOVERING, MailJobState.P_ASSIGNED}
    for state in ENDED:
        assert TRANSITIONS[state] <= restarts
    for state in set(MailJobState) - ENDED:
        assert TRANSITIONS[state], state


@pytest.mark.parametrize("state", list(MailJobState))
def test_parents_states_are_known_by_name(state: MailJobState) -> None:
    assert state.is_parents_own == state.value.startswith("P_")
    assert state.is_ended == (state in ENDED)


@pytest.mark.rule("6.3")
@pytest.mark.rule("7.1")
def test_the_page_of_loose_mails_shows_every_state_and_way_and_no_other() -> None:
    page = _LOOSE_PAGE.read_text(encoding="utf-8")
    known = {
        (leaves.value, enters.value)
        for leaves, all_enters in LOOSE_MAIL_TRANSITIONS.items()
        for enters in all_enters
    }
    drawn = [(leaves, enters) for leaves, enters in _ARROW.findall(page)]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == known
    named = re.findall(r"^\| (\w+) \| ", page, re.MULTILINE)
    assert named == ["state", *(state.value for state in LooseMailState)]

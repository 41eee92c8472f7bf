"""Which answers of a relay mean that less should be sent, and to whom (spec 6.7)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import pytest

from mail_orchestration.egress.complaints import MOST_DEFERRED, WINDOW, Complaints
from mail_orchestration.egress.ports import Complaint, Scope
from mail_orchestration.egress.reply import Reply
from mail_orchestration.egress.verdict import Verdict
from mail_orchestration.kernel.attempts import Phase

pytestmark = pytest.mark.rule("6.7")

RELAY = Scope("relay", "mail.example:25")
ACCEPTED = (Verdict.ACCEPTED, Reply(250, "2.0.0", "taken"), Phase.FINAL_DOT)
GREYLISTED = (Verdict.DEFERRED, Reply(450, "4.2.0", "<ann@big.example>: try later"), Phase.RCPT)
OVERLOADED = (Verdict.DEFERRED, Reply(451, "4.3.2", "overloaded"), Phase.FINAL_DOT)
CLOSING = (Verdict.GIVE_BACK, Reply(421, "4.7.0", "too fast"), Phase.MAIL)

Answer = tuple[Verdict, Reply, Phase]


def made_by(answers: Iterable[tuple[str, Answer]], *, per_second: float = 100.0) -> list[Complaint]:
    """Complaints over answers to messages for these domains, as the throttle tells of them."""
    complaints, found = Complaints(), []
    for number, (domain, answer) in enumerate(answers):
        if answer[0] is Verdict.ACCEPTED and complaints.note_accepted(RELAY):
            continue
        if complaints.note(RELAY, Scope("domain", domain), *answer, now=number / per_second):
            found += complaints.take()
    return found


def test_421_is_one_at_once() -> None:
    [found] = made_by([("big.example", ACCEPTED)] * 5 + [("big.example", CLOSING)])
    assert (found.scope, found.reason) == (RELAY, "421 4.7.0 too fast")


def test_two_percent_of_greylisting_are_none() -> None:
    dice = random.Random(7)
    drawn = [("big.example", GREYLISTED if dice.random() < 0.02 else ACCEPTED) for _ in range(100_000)]
    assert made_by(drawn) == []


def test_a_domain_that_defers_most_is_slowed_and_the_relay_is_not() -> None:
    mixed = [(f"d{n % 7}.example", ACCEPTED) for n in range(200)]
    for n in range(0, 200, 5):
        mixed[n] = ("big.example", GREYLISTED)
    found = made_by(mixed)
    assert Counter(each.scope for each in found) == {Scope("domain", "big.example"): 40 // MOST_DEFERRED}
    assert found[0].reason == "450 4.2.0 <<address>>: try later", "no address of a person"


@pytest.mark.parametrize("enhanced", ["4.1.8", "4.2.2", "4.2.3"])
@pytest.mark.parametrize("phase", [Phase.RCPT, Phase.FINAL_DOT])
def test_what_is_said_of_one_recipient_slows_nobody(enhanced: str, phase: Phase) -> None:
    full = (Verdict.DEFERRED, Reply(452, enhanced, "over quota"), phase)
    assert made_by([("big.example", full)] * 10 * WINDOW) == [], "a retry of full mailboxes only"
    assert made_by([("big.example", full), ("big.example", GREYLISTED)] * MOST_DEFERRED) != []


def test_a_relay_that_defers_everybody_is_slowed() -> None:
    scopes = {each.scope for each in made_by((f"d{n % 7}.example", GREYLISTED) for n in range(40))}
    assert RELAY in scopes
    scopes = {each.scope for each in made_by([("big.example", OVERLOADED)] * MOST_DEFERRED)}
    assert scopes == {RELAY}, "after DATA it is not the recipient's domain that speaks"


def test_what_is_deferred_now_and_then_adds_up_to_nothing() -> None:
    window = [("big.example", GREYLISTED)] * (MOST_DEFERRED - 1) + [("big.example", ACCEPTED)] * WINDOW
    assert made_by(window * 20) == []


def test_the_rate_is_that_of_the_last_answers() -> None:
    slow_then_fast = [("big.example", ACCEPTED)] * 300 + [("big.example", CLOSING)]
    [found] = made_by(slow_then_fast, per_second=250.0)
    assert found.seen_rate == pytest.approx(250.0, rel=0.05)


def test_a_session_that_is_not_begun_for_now_is_one_and_one_refused_for_good_is_none() -> None:
    complaints = Complaints()
    assert complaints.note_turned_away(RELAY, CLOSING[1], 1.0)
    [found] = complaints.take()
    assert (found.scope, found.reason) == (RELAY, "421 4.7.0 too fast")
    assert not complaints.note_turned_away(RELAY, Reply(554, "5.7.1", "we do not know you"), 2.0)
    assert complaints.take() == []

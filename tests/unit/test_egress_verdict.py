"""What a reply means, in each phase."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.egress.reply import Reply
from mail_orchestration.egress.verdict import Verdict, speaks_of_the_address, verdict_on
from mail_orchestration.kernel.attempts import Phase


@pytest.mark.rule("6.4")
@pytest.mark.parametrize(
    ("code", "enhanced", "phase", "verdict"),
    [
        (250, None, Phase.MAIL, Verdict.GO_ON),
        (251, None, Phase.RCPT, Verdict.GO_ON),
        (354, None, Phase.DATA, Verdict.GO_ON),
        (250, None, Phase.DATA, Verdict.OUT_OF_STEP),
        (354, None, Phase.RCPT, Verdict.OUT_OF_STEP),
        (334, None, Phase.DATA, Verdict.OUT_OF_STEP),
        (354, None, Phase.FINAL_DOT, Verdict.OUT_OF_STEP),
        (250, None, Phase.FINAL_DOT, Verdict.ACCEPTED),
        (451, None, Phase.FINAL_DOT, Verdict.DEFERRED),
        (554, None, Phase.FINAL_DOT, Verdict.REJECTED),
        (552, None, Phase.RCPT, Verdict.DEFERRED),
        (552, "5.5.3", Phase.RCPT, Verdict.DEFERRED),
        (552, "5.2.2", Phase.RCPT, Verdict.REJECTED),
        (552, None, Phase.FINAL_DOT, Verdict.REJECTED),
        (530, "5.7.0", Phase.MAIL, Verdict.SESSION_REFUSED),
        (530, "5.7.0", Phase.RCPT, Verdict.REJECTED),
        (250, None, Phase.RSET, Verdict.GO_ON),
        (500, None, Phase.RSET, Verdict.OUT_OF_STEP),
    ],
)
def test_the_verdict(code: int, enhanced: str | None, phase: Phase, verdict: Verdict) -> None:
    assert verdict_on(Reply(code, enhanced, ""), phase) is verdict


@given(st.integers(200, 599), st.sampled_from(list(Phase)))
def test_only_2yz_to_the_final_dot_accepts_and_421_always_gives_back(code: int, phase: Phase) -> None:
    verdict = verdict_on(Reply(code, None, ""), phase)
    assert (verdict is Verdict.ACCEPTED) == (phase is Phase.FINAL_DOT and 200 <= code < 300)
    assert (verdict is Verdict.GIVE_BACK) == (code == 421)
    assert verdict is not Verdict.REJECTED or code >= 500


@pytest.mark.rule("6.4")
@pytest.mark.parametrize(
    ("code", "enhanced", "speaks"),
    [
        (550, "5.1.1", True),
        (550, "5.1.10", True),
        (550, "5.2.1", True),
        (556, "5.1.10", True),
        (552, "5.2.2", False),
        (554, "5.7.1", False),
        (550, None, False),
        (450, "5.1.1", False),
    ],
)
def test_which_replies_speak_of_the_address(code: int, enhanced: str | None, speaks: bool) -> None:
    for phase in (Phase.RCPT, Phase.DATA, Phase.FINAL_DOT):
        assert speaks_of_the_address(Reply(code, enhanced, ""), phase) is speaks
    assert not speaks_of_the_address(Reply(code, enhanced, ""), Phase.MAIL), "that is the sender's address"

"""Single mails are outside the frequency policy: neither held nor counted (spec 8.6)."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from mail_orchestration.frequency.why import why
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.maintenance import close_days
from mail_orchestration.single_mailer import submit
from tests.scenarios.frequency_site import site_that_holds
from tests.scenarios.installations import address_of, now, tally
from tests.scenarios.single_mail_site import mail, send


@pytest.mark.rule("8.6", "7.4")
def test_a_single_mail_goes_at_once_to_who_is_at_a_limit_and_is_not_counted(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site_that_holds(tmp_path, database_url, monkeypatch, contacts=2) as (inst, sink, held):
        (rule,) = why(inst, address_of("r1")).rules
        assert (str(rule.rule), rule.is_reached) == ("1 in 1 day", True)
        submit(inst, [mail("r1"), mail("nobody-wrote-to-before")])
        assert send(inst) == {Outcome.ACCEPTED: 2}
        assert set(sink.tally()) == {address_of("r1"), address_of("nobody-wrote-to-before")}
        assert why(inst, address_of("r1")).rules == [rule]
        (rule,) = why(inst, address_of("nobody-wrote-to-before")).rules
        assert rule.counted == 0
        assert tally(inst, held).held == 2, "what waits waits on"

        tomorrow = now() + timedelta(days=1)
        close_days(inst, now=tomorrow)
        assert list(why(inst, address_of("r1"), now=tomorrow).by_day.values()) == [1], "that of the mail job"
        assert why(inst, address_of("nobody-wrote-to-before"), now=tomorrow).by_day == {}

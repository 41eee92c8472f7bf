"""The queue against a model of it, in random runs of many steps (spec 3.2, 3.3, 4.3, 4.6, 5).

In the suite the runs are the same ones each time. `HYPOTHESIS_PROFILE=long` (`make model`) makes new ones for some
minutes; `--hypothesis-seed=N` repeats those of a seed. A run that fails is made as short as it can be, and printed step
by step.
"""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.states import TRANSITIONS, MailJobState
from tests.integration.queue_model.every_way import EveryWay
from tests.integration.queue_model.machine import QueueMachine

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SETTINGS = settings(
    max_examples=300 if IS_LONG else 30,
    stateful_step_count=80 if IS_LONG else 40,
    derandomize=not IS_LONG,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    report_multiple_bugs=False,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
)


@pytest.mark.rule("3.2")
@pytest.mark.rule("3.3")
@pytest.mark.rule("4.3")
@pytest.mark.rule("5.3")
@pytest.mark.rule("5.4")
@pytest.mark.rule("5.5")
@pytest.mark.timeout(7200 if IS_LONG else 900)  # a run that fails is made shorter for up to five minutes
def test_the_queue_does_what_the_model_does(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who passed over rows in hand looks again after some milliseconds: here nobody lets go meanwhile.
    monkeypatch.setattr("mail_orchestration.dispatch.claims.time.sleep", lambda _: None)
    run_state_machine_as_test(lambda: QueueMachine(database), settings=SETTINGS)


@pytest.mark.rule("3.2")
def test_every_way_of_the_table_is_gone_by_some_code(database: Database) -> None:
    run = EveryWay(database)
    run.go()
    run.teardown()
    gone = {way for job in run.model.jobs.values() for way in pairwise(job.history)}
    table = {(leaves, enters) for leaves, all_enters in TRANSITIONS.items() for enters in all_enters}
    assert table - gone == {way for way in table if MailJobState.INTERRUPTED in way}

"""Components between release and queue: they bypass, fail, or do not exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mail_orchestration.broadcast import (
    assemble_release,
    fill_audience,
    queue_release,
    release_campaign,
    resolve_release,
)
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import (
    ComponentFailed,
    NotFound,
)
from mail_orchestration.kernel.model import Bypass, Recipient
from mail_orchestration.kernel.states import MailJobState
from tests.integration.broadcast_site import NOW, campaign, inst, made, site
from tests.scenarios.installations import state, tally

__all__ = ["inst", "site"]


def odd_ones(recipients: Sequence[Recipient]) -> list[Bypass]:
    """A component: bypasses the odd numbers."""
    return [
        Bypass(recipient_no=each.recipient_no, reason="odd")
        for each in recipients
        if int(each.attributes["number"]) % 2
    ]


def broken(recipients: Sequence[Recipient]) -> None:
    """A component that fails."""
    raise RuntimeError("no")


@pytest.mark.rule("1.6")
@pytest.mark.rule("1.8")
@pytest.mark.parametrize("stage", ["preprocess", "filter", "cookies", "compose"])
def test_a_component_bypasses_and_the_books_balance(inst: Installation, site: Path, stage: str) -> None:
    release_id = made(inst, campaign(site, components={stage: [f"{__name__}:odd_ones"]}))
    tally(inst, release_id)
    assemble_release(inst, release_id, now=NOW)
    found = tally(inst, release_id)
    assert (found.assembled, found.bypassed) == (150, {"odd": 150})
    assert queue_release(inst, release_id, now=NOW) is MailJobState.P_QUEUED


@pytest.mark.rule("1.6")
@pytest.mark.parametrize("stage", ["filter", "compose"])
def test_a_component_that_raises_fails_the_mail_job_with_its_name(
    inst: Installation, site: Path, stage: str
) -> None:
    fill_audience(inst, "everybody", now=NOW)
    folder = campaign(site, components={stage: [f"{__name__}:broken"]})
    release_id = release_campaign(inst, folder, now=NOW).release_id
    if stage == "compose":
        resolve_release(inst, release_id, now=NOW)
    step = assemble_release if stage == "compose" else resolve_release
    with pytest.raises(ComponentFailed, match=rf"{__name__}:broken \(stage {stage}\)"):
        step(inst, release_id, now=NOW)
    failed, reason = state(inst, release_id)
    assert failed is MailJobState.FAILED
    assert "broken" in reason


@pytest.mark.rule("1.6")
@pytest.mark.parametrize("stage", ["filter", "compose", "send"])
def test_a_component_that_does_not_exist_is_named_before_the_release(
    inst: Installation, site: Path, stage: str
) -> None:
    fill_audience(inst, "everybody", now=NOW)
    folder = campaign(site, components={stage: ["no.such:thing"]})
    with pytest.raises(NotFound, match=rf"no\.such:thing \(stage {stage}\)"):
        release_campaign(inst, folder, now=NOW)

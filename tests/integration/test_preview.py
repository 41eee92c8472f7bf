"""A campaign is looked at and tried before it is released."""

from __future__ import annotations

from pathlib import Path

import pytest

from mail_orchestration.broadcast import fill_audience
from mail_orchestration.composition.findings import Severity
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.errors import BadAddress, BadCampaign, NotFound, RelayUnreachable
from mail_orchestration.preview import preview_message
from mail_orchestration.preview import test_send as send_test
from tests.scenarios.installations import now, opened, site_with_sink, write_site


@pytest.mark.rule("2.1")
def test_preview_shows_what_a_contact_would_get(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = write_site(
        tmp_path, relay_port=9, contacts=20, campaign={"sample_contact": {"name": "Zoë", "number": 0}}
    )
    folder = tmp_path / "campaigns" / "letter"
    with opened(settings, database_url, monkeypatch) as inst:
        assert preview_message(inst, folder).subject == "A letter to Zoë"
        fill_audience(inst, "everybody", now=now())
        preview = preview_message(inst, folder, address="R7@EXAMPLE.net")
        assert preview.subject == "A letter to Reader 7"
        assert preview.parsed["To"] == "r7@example.net"
        assert not [each for each in preview.findings if each.severity is Severity.ERROR]
        with pytest.raises(NotFound, match="no audience of campaign letter"):
            preview_message(inst, folder, address="nobody@example.net")


@pytest.mark.rule("2.2")
def test_a_template_without_end_does_not_hold_the_preview_up(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    html = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    settings = write_site(tmp_path, relay_port=9, html=html)
    with (
        opened(settings, database_url, monkeypatch) as inst,
        pytest.raises(BadCampaign, match="template_limits"),
    ):
        preview_message(inst, tmp_path / "campaigns" / "letter")


@pytest.mark.rule("2.1")
@pytest.mark.rule("8.6")
def test_a_test_send_reaches_the_named_addresses_and_leaves_no_mail_job(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = {"sample_contact": {"name": "Zoë", "number": 0}}
    folder = tmp_path / "campaigns" / "letter"
    with site_with_sink(tmp_path, database_url, monkeypatch, contacts=20, campaign=sample) as (inst, sink):
        fill_audience(inst, "everybody", now=now())
        results = send_test(inst, folder, ["r7@example.net", "boss@example.org"], now=now())
        with pytest.raises(BadAddress):
            send_test(inst, folder, ["no address"], now=now())
        send_test(inst, folder, ["r7@example.net"], now=now())
        assert [result.outcome for result in results] == [Outcome.ACCEPTED, Outcome.ACCEPTED]
        messages = list(sink.messages())
    # A mailbox that knows a Message-ID already shows the second trial of the day to nobody.
    assert len({message["Message-ID"] for message in messages}) == 3
    subjects = {message["X-Rcpt-Args"]: message["Subject"] for message in messages}
    assert subjects == {"<r7@example.net>": "A letter to Reader 7", "<boss@example.org>": "A letter to Zoë"}


@pytest.mark.rule("6.8")
def test_a_test_send_without_a_relay_says_so(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mail_orchestration.preview.UNREACHABLE_AFTER_S", 0.5)
    sample = {"sample_contact": {"name": "Zoë", "number": 0}}
    settings = write_site(tmp_path, relay_port=9, campaign=sample)
    with opened(settings, database_url, monkeypatch) as inst, pytest.raises(RelayUnreachable, match="sink"):
        send_test(inst, tmp_path / "campaigns" / "letter", ["boss@example.org"], now=now())

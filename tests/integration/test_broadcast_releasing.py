"""A campaign is released: what is refused beforehand, what is frozen, who gets it, when it starts."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from mail_orchestration.audience.csv_source import CsvSource
from mail_orchestration.broadcast import (
    assemble_release,
    fill_audience,
    queue_release,
    release,
    release_again,
    release_campaign,
    releases_to_queue,
    resolve_release,
)
from mail_orchestration.composition.definition import load_campaign
from mail_orchestration.frozen import read_frozen
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.errors import (
    BadAudience,
    BadCampaign,
    DatabaseUnavailable,
    NotFound,
    StateConflict,
)
from mail_orchestration.kernel.states import MailJobState
from tests.integration.broadcast_site import NOW, break_connections, campaign, inst, made, site
from tests.scenarios.installations import state, tally, write_site

__all__ = ["inst", "site"]


@pytest.mark.rule("1.3")
def test_an_audience_whose_only_import_failed_is_unknown(
    inst: Installation, site: Path, tmp_path: Path
) -> None:
    fill_audience(inst, "everybody", now=NOW)
    (tmp_path / "broken.csv").write_text("no,addresses\n1,2\n")
    broken = CsvSource(path=tmp_path / "broken.csv")
    with pytest.raises(BadAudience, match="there is no column"):
        fill_audience(inst, "left_us", source=broken, now=NOW)
    with pytest.raises(BadCampaign, match="exclude: there is no audience named left_us"):
        release_campaign(inst, campaign(site, exclude=["left_us"]), now=NOW)


@pytest.mark.rule("1.3")
@pytest.mark.parametrize("key", ["audiences", "exclude"])
def test_an_unknown_audience_is_named(inst: Installation, site: Path, key: str) -> None:
    fill_audience(inst, "everybody", now=NOW)
    folder = campaign(site, **{key: ["nobody"]})
    with pytest.raises(BadCampaign, match=rf"campaign\.yaml: {key}: there is no audience named nobody"):
        release_campaign(inst, folder, now=NOW)


@pytest.mark.rule("1.3")
def test_a_release_needs_an_audience(inst: Installation, site: Path) -> None:
    with pytest.raises(BadCampaign, match="audiences: a release needs at least one"):
        release_campaign(inst, campaign(site, audiences=[]), now=NOW)


@pytest.mark.rule("2.1")
def test_a_template_that_does_not_compile_is_told_before_the_release(inst: Installation, site: Path) -> None:
    folder = campaign(site)
    (folder / "message.html.j2").write_text("<p>\n{% if %}</p>{% include 'gone.j2' %}", encoding="utf-8")
    with pytest.raises(BadCampaign, match=r"^message\.html\.j2:2: Expected an expression"):
        release_campaign(inst, folder, now=NOW)
    (folder / "message.html.j2").write_text("<p>{% include 'gone.j2' %}</p>", encoding="utf-8")
    with pytest.raises(BadCampaign, match=r"^message\.html\.j2:1: there is no template gone\.j2"):
        release_campaign(inst, folder, now=NOW)
    with inst.database.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM mail_job")) == 0


@pytest.mark.rule("2.1")
def test_a_release_is_frozen(inst: Installation, site: Path) -> None:
    folder = campaign(site)
    before = load_campaign(folder).files
    release_id = made(inst, folder)
    campaign(site, subject="Something else")
    with inst.database.begin() as connection:
        assert read_frozen(connection, inst, release_id).campaign.files == before


@pytest.mark.rule("3.5")
def test_a_campaign_in_test_goes_to_its_test_addresses_only(inst: Installation, site: Path) -> None:
    folder = campaign(
        site,
        state="test",
        test_addresses=["Me <me@example.org>", "you@example.org"],
        sample_contact={"name": "Zoë", "number": 7, "email": "somebody.else@example.org"},
    )
    release_id = made(inst, folder)
    assemble_release(inst, release_id, now=NOW)
    assert tally(inst, release_id).assembled == 2
    with inst.database.begin() as connection:
        written_to = set(connection.scalars(text("SELECT address FROM assembled_message")))
    assert written_to == {"me@example.org", "you@example.org"}


@pytest.mark.rule("3.5")
def test_a_test_address_that_cannot_be_written_to_is_told(inst: Installation, site: Path) -> None:
    folder = campaign(site, state="test", test_addresses=["me@example.org", "you@localhost"])
    with pytest.raises(BadCampaign, match=r"test_addresses: 1 of them cannot be written to \(bad_address\)"):
        release_campaign(inst, folder, now=NOW)


@pytest.mark.rule("3.6")
def test_an_expired_campaign_is_not_released(inst: Installation, site: Path) -> None:
    folder = campaign(site, expires_at="2026-05-20T11:59:59Z")
    with pytest.raises(BadCampaign, match="expires_at has passed"):
        release_campaign(inst, folder, now=NOW)


@pytest.mark.rule("3.6")
def test_a_mail_job_waits_for_its_start_time(inst: Installation, site: Path) -> None:
    release_id = made(inst, campaign(site, starts_at="2026-05-21T08:00:00Z"))
    assemble_release(inst, release_id, now=NOW)
    assert releases_to_queue(inst, now=NOW) == []
    with pytest.raises(StateConflict, match="does not start before 2026-05-21T08:00"):
        queue_release(inst, release_id, now=NOW)
    later = NOW + timedelta(days=1)
    assert releases_to_queue(inst, now=later) == [release_id]
    assert queue_release(inst, release_id, now=later) is MailJobState.P_QUEUED


@pytest.mark.rule("1.2")
def test_an_import_is_whole_or_nothing_when_the_database_goes(
    inst: Installation, site: Path, database_url: str
) -> None:
    fill_audience(inst, "everybody", now=NOW)
    write_site(site, relay_port=9, contacts=50_000)

    def connection_breaks(rows: int) -> None:
        break_connections(database_url)

    def members() -> int:
        with inst.database.begin() as connection:
            return int(connection.scalars(text("SELECT count(*) FROM audience_member")).one())

    with pytest.raises(DatabaseUnavailable):
        fill_audience(inst, "everybody", now=NOW, progress=connection_breaks)
    assert members() == 300
    fill_audience(inst, "everybody", now=NOW)
    assert members() == 50_000


@pytest.mark.rule("1.3")
def test_an_interrupted_mail_job_is_released_again(inst: Installation, site: Path) -> None:
    fill_audience(inst, "everybody", now=NOW)
    release_id = release_campaign(inst, campaign(site), now=NOW).release_id
    with pytest.raises(StateConflict, match="QUEUING"):
        release_again(inst, release_id, now=NOW)
    with inst.database.begin() as connection:
        connection.execute(text("UPDATE mail_job SET state = 'INTERRUPTED'"))
    assert release_again(inst, release_id, now=NOW).state is MailJobState.QUEUING
    assert resolve_release(inst, release_id, now=NOW).recipients == 300


@pytest.mark.rule("1.7")
def test_a_release_without_a_recipient_is_stopped(inst: Installation, site: Path) -> None:
    folder = campaign(site, required_attributes=["shoe_size"])
    release_id = made(inst, folder)
    found, reason = state(inst, release_id)
    assert found is MailJobState.STOPPED
    assert "missing_attribute:shoe_size" in reason
    tally(inst, release_id)


def test_release_of_another_installation_is_not_found(inst: Installation) -> None:
    with pytest.raises(NotFound, match="there is no release 77"):
        release(inst, 77)

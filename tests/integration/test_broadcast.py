"""The broadcast story against PostgreSQL: what is refused, what is bypassed, what goes on after a crash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
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
    AssemblyFailed,
    BadAudience,
    BadCampaign,
    ComponentFailed,
    DatabaseUnavailable,
    NotFound,
    StateConflict,
)
from mail_orchestration.kernel.model import Bypass, Recipient
from mail_orchestration.kernel.states import MailJobState
from tests.scenarios.installations import opened, state, tally, write_site

NOW = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The folder of an installation with 300 contacts, whose relay nobody has started."""
    write_site(tmp_path, relay_port=9, contacts=300)
    return tmp_path


@pytest.fixture
def inst(site: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    with opened(site / "mail_orchestration.yaml", database_url, monkeypatch) as opened_installation:
        yield opened_installation


def campaign(site: Path, **changes: object) -> Path:
    """The campaign's folder, with these keys in campaign.yaml."""
    write_site(site, relay_port=9, contacts=300, campaign=changes)
    return site / "campaigns" / "letter"


def made(inst: Installation, folder: Path) -> int:
    """A resolved release."""
    fill_audience(inst, "everybody", now=NOW)
    release_id = release_campaign(inst, folder, now=NOW).release_id
    resolve_release(inst, release_id, now=NOW)
    return release_id


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


@pytest.mark.rule("2.7")
def test_a_few_who_cannot_be_composed_for_are_bypassed(inst: Installation, site: Path) -> None:
    folder = campaign(site)
    template = "<p>{{ 1 / (number | int - 7) }} {{ unsubscribe_url }}</p>"
    (folder / "message.html.j2").write_text(template, encoding="utf-8")
    release_id = made(inst, folder)
    summary = assemble_release(inst, release_id, now=NOW)
    assert (summary.messages, summary.bypassed) == (299, {"template_error": 1})
    found = tally(inst, release_id)
    assert (found.assembled, found.bypassed) == (299, {"template_error": 1})


@pytest.mark.rule("2.7")
def test_more_than_one_percent_fail_the_mail_job_before_a_mail_leaves(inst: Installation, site: Path) -> None:
    folder = campaign(site)
    template = "<p>{{ 1 / (number | int // 5) }} {{ unsubscribe_url }}</p>"
    (folder / "message.html.j2").write_text(template, encoding="utf-8")
    release_id = made(inst, folder)
    with pytest.raises(AssemblyFailed, match=r"4 of 300 messages .* more than 1 %.*message\.html\.j2:1"):
        assemble_release(inst, release_id, now=NOW)
    failed, reason = state(inst, release_id)
    assert failed is MailJobState.FAILED
    assert "message.html.j2:1" in reason
    with pytest.raises(StateConflict):
        assemble_release(inst, release_id, now=NOW)


@pytest.mark.rule("2.7")
@pytest.mark.rule("1.8")
def test_assembly_goes_on_where_it_was_cut_off(
    inst: Installation, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.ASSEMBLY_BATCH", 20)
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.COMMIT_RECIPIENTS", 100)
    release_id = made(inst, campaign(site))

    def cut(done: int, total: int) -> None:
        if done >= 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assemble_release(inst, release_id, now=NOW, progress=cut)
    half = tally(inst, release_id)
    assert (half.assembled, half.unassembled) == (200, 100)
    assert assemble_release(inst, release_id, now=NOW).messages == 100
    assert tally(inst, release_id).assembled == 300
    with inst.database.begin() as connection:
        rows = connection.execute(
            text("SELECT message_no, recipient_no FROM assembled_message ORDER BY message_no")
        ).all()
    assert [tuple(row) for row in rows] == [(n, n) for n in range(1, 301)]


def keep_nobody(recipients: Sequence[Recipient]) -> list[Bypass]:
    return [Bypass(recipient_no=each.recipient_no, reason="not_today") for each in recipients]


@pytest.mark.rule("1.6", "1.8")
@pytest.mark.parametrize("component", [None, "keep_nobody"])
def test_little_is_kept_in_memory_before_it_is_stored(
    inst: Installation, site: Path, monkeypatch: pytest.MonkeyPatch, component: str | None
) -> None:
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.ASSEMBLY_BATCH", 20)
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.COMMIT_RECIPIENTS", 100)
    # Of messages already the first is too much.
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.COMMIT_OCTETS", 1)
    named = {} if component is None else {"compose": [f"{__name__}:{component}"]}
    release_id = made(inst, campaign(site, components=named))
    stored: list[int] = []
    assemble_release(inst, release_id, now=NOW, progress=lambda done, total: stored.append(done))
    steps = [after - before for before, after in zip([0, *stored], stored, strict=False)]
    assert sum(steps) == 300
    assert max(steps) <= (20 if component is None else 100)
    found = tally(inst, release_id)
    assert (found.assembled, found.bypassed) == ((300, {}) if component is None else (0, {"not_today": 300}))


@pytest.mark.rule("2.7", "1.8")
def test_assembly_goes_on_after_the_database_was_gone(
    inst: Installation, site: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.ASSEMBLY_BATCH", 20)
    monkeypatch.setattr("mail_orchestration.broadcast.assembling.COMMIT_RECIPIENTS", 100)
    release_id = made(inst, campaign(site))

    def all_connections_break(done: int, total: int) -> None:
        if done == 100:
            with psycopg.connect(database_url) as killer:
                killer.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )

    with pytest.raises(DatabaseUnavailable):
        assemble_release(inst, release_id, now=NOW, progress=all_connections_break)
    assert state(inst, release_id)[0] is MailJobState.QUEUING
    assert tally(inst, release_id).unassembled > 0
    assemble_release(inst, release_id, now=NOW)
    assert tally(inst, release_id).assembled == 300
    with inst.database.begin() as connection:
        numbers = connection.scalars(text("SELECT recipient_no FROM assembled_message")).all()
    assert sorted(numbers) == list(range(1, 301))


@pytest.mark.rule("1.2")
def test_an_import_is_whole_or_nothing_when_the_database_goes(
    inst: Installation, site: Path, database_url: str
) -> None:
    fill_audience(inst, "everybody", now=NOW)
    write_site(site, relay_port=9, contacts=50_000)

    def connection_breaks(rows: int) -> None:
        with psycopg.connect(database_url) as killer:
            killer.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

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

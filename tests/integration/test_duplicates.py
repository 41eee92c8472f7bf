"""The same content is not queued for a contact twice within the history, however often it is released (spec 6.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event
from zoneinfo import ZoneInfo

import pytest
import yaml
from sqlalchemy import text

from mail_orchestration.audience.resolving import ResolveSummary, resolve_recipients
from mail_orchestration.broadcast import assemble_release, fill_audience, release_campaign, resolve_release
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.components import Component
from mail_orchestration.kernel.model import Bypass, Recipient
from mail_orchestration.kernel.states import MailJobState
from tests.scenarios.installations import CAMPAIGN, now, opened, state, tally, write_site

CONTACTS = 9
pytestmark = pytest.mark.rule("6.6")


@pytest.fixture
def inst(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    site = write_site(tmp_path, relay_port=9, contacts=CONTACTS, dispatcher={"assembly_processes": 1})
    with opened(site, database_url, monkeypatch) as installation:
        fill_audience(installation, "everybody", now=now())
        yield installation


def define(inst: Installation, **changes: object) -> None:
    definition = yaml.safe_dump({**CAMPAIGN, **changes})
    (inst.settings.campaigns_dir / "letter" / "campaign.yaml").write_text(definition, encoding="utf-8")


def resolved(inst: Installation, *, again: bool = False, occurrence: str = "") -> tuple[int, ResolveSummary]:
    folder = inst.settings.campaigns_dir / "letter"
    made = release_campaign(inst, folder, now=now(), again=again, occurrence=occurrence)
    return made.release_id, resolve_release(inst, made.release_id, now=now())


def execute(inst: Installation, statement: str, **binds: object) -> None:
    with inst.database.begin() as connection:
        assert connection.execute(text(statement), binds).rowcount


def becomes(inst: Installation, release_id: int, entered: str, queued_days_ago: float | None = 0) -> None:
    """The release's mail job in this state, queued so long ago; None: it failed before it was queued."""
    execute(
        inst,
        "UPDATE mail_job SET state = CAST(:state AS mail_job_state), "
        "queued_at = clock_timestamp() - make_interval(secs => CAST(:days AS double precision) * 86400), "
        "first_message = 1, last_message = 9, "
        "ended_at = CASE WHEN CAST(:state AS text) IN ('FINISHED', 'FAILED', 'STOPPED') THEN now() END "
        "WHERE mail_job_id = :id",
        id=release_id,
        state=entered,
        days=queued_days_ago,
    )


def has_results(inst: Installation, release_id: int, *outcomes: str | Sequence[str]) -> None:
    """The results of the recipients 1, 2, 3 …, several for one that was tried again."""
    for number, several in enumerate(outcomes, start=1):
        before = None
        for result_no, outcome in enumerate([several] if isinstance(several, str) else several, start=1):
            execute(
                inst,
                "INSERT INTO result (released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, "
                "outcome, relay, result_no, supersedes) SELECT released_on, release_id, recipient_no, release_id, "
                "contact_id, now(), CAST(:outcome AS outcome), 'sink', :result_no, CAST(:before AS outcome) "
                "FROM recipient WHERE release_id = :id AND recipient_no = :number",
                id=release_id,
                number=number,
                outcome=outcome,
                result_no=result_no,
                before=before,
            )
            before = outcome


def test_a_second_release_reaches_nobody_and_says_why(inst: Installation) -> None:
    first, summary = resolved(inst)
    assert summary.bypassed == {}

    second, summary = resolved(inst)
    assert summary.bypassed == {"duplicate": CONTACTS}
    assert resolve_release(inst, second, now=now()) == summary, "told again, not done again"
    entered, reason = state(inst, second)
    assert entered is MailJobState.STOPPED
    assert f"by mail job {first}: restart" in reason
    assert "--again" in reason
    assert tally(inst, second).bypassed == {"duplicate": CONTACTS}
    with inst.database.begin() as connection:
        details = connection.scalars(text("SELECT DISTINCT detail FROM bypass")).all()
    assert details == [f"mail job {first}"]

    third, summary = resolved(inst, again=True)
    assert summary.bypassed == {}
    assert assemble_release(inst, third, now=now()).messages == CONTACTS


def test_who_was_not_among_the_first_is_written_to(inst: Installation) -> None:
    first, _ = resolved(inst)
    becomes(inst, first, "FINISHED")
    (inst.settings.folder / "more.csv").write_text(
        "email,name,number\nr1@example.net,A,1\nnew@example.net,B,2\n", encoding="utf-8"
    )
    settings = inst.settings.folder / "mail_orchestration.yaml"
    document = yaml.safe_load(settings.read_text(encoding="utf-8"))
    document["audiences"].append({"name": "more", "csv": "more.csv"})
    settings.write_text(yaml.safe_dump(document), encoding="utf-8")
    with opened(settings, inst.database.url, pytest.MonkeyPatch()) as larger:
        fill_audience(larger, "more", now=now())
        # Other audiences, another priority: the messages say the same.
        define(larger, audiences=["everybody", "more"], priority=5)
        second, summary = resolved(larger)
        assert (summary.duplicates, summary.bypassed, summary.to_assemble) == (1, {"duplicate": CONTACTS}, 1)
        assert assemble_release(larger, second, now=now()).messages == 1
        assert tally(larger, second).bypassed == {"duplicate": CONTACTS}


def test_what_has_not_arrived_counts_for_nothing(inst: Installation) -> None:
    first, _ = resolved(inst)
    becomes(inst, first, "FINISHED")
    has_results(
        inst,
        first,
        "accepted",
        "deferred",
        "uncertain",
        ("uncertain", "accepted"),
        "rejected",
        ("deferred", "rejected"),
        "stopped",
        ("uncertain", "expired"),
    )
    _, summary = resolved(inst)
    assert summary.bypassed == {"duplicate": 5}, "four that arrived or may have, and one without a result"
    becomes(inst, first, "FINISHED", queued_days_ago=8)
    third, summary = resolved(inst)
    assert summary.bypassed == {"duplicate": 4}, "of the second those whom it did not bypass"
    becomes(inst, first, "FINISHED")
    becomes(inst, third, "STOPPED")
    fourth, summary = resolved(inst)
    assert summary.bypassed == {"duplicate": CONTACTS}, "the first and the second count"
    assert state(inst, fourth)[0] is MailJobState.STOPPED


@pytest.mark.parametrize(
    ("entered", "queued_days_ago", "counts"),
    [
        ("FINISHED", 6.9, True),
        ("FINISHED", 7.1, False),
        ("STOPPED_Q", 30, True),
        ("FAILED", 1, True),
        ("FAILED", None, False),
        ("STOPPED", 1, False),
    ],
)
def test_how_long_an_earlier_release_counts(
    inst: Installation, entered: str, queued_days_ago: float | None, counts: bool
) -> None:
    first, _ = resolved(inst)
    if queued_days_ago is None:
        execute(
            inst, "UPDATE mail_job SET state = 'FAILED', ended_at = now() WHERE mail_job_id = :id", id=first
        )
    else:
        becomes(inst, first, entered, queued_days_ago)
    assert resolved(inst)[1].bypassed == ({"duplicate": CONTACTS} if counts else {})


def test_another_occurrence_other_words_and_tests_are_no_duplicates(inst: Installation) -> None:
    resolved(inst)
    assert resolved(inst, occurrence="May 20")[1].bypassed == {}
    assert resolved(inst, occurrence="May 20")[1].bypassed == {"duplicate": CONTACTS}
    define(inst, state="test", test_addresses=["r1@example.net", "tester@example.org"])
    for _ in range(2):
        assert resolved(inst)[1].bypassed == {}
    define(inst, subject="Another letter to {{ name }}")
    assert resolved(inst)[1].bypassed == {}, "nor was the test the first of its kind"


def test_of_two_dedups_at_once_the_second_sees_the_first(
    inst: Installation,
) -> None:
    folder, go_on, is_begun = inst.settings.campaigns_dir / "letter", Event(), Event()
    # Of two days: dedups of one day wait for each other anyway, for their partition.
    first, second = (
        release_campaign(inst, folder, now=now() - timedelta(days=days)).release_id for days in (1, 0)
    )

    def dawdle(batch: Sequence[Recipient]) -> list[Bypass]:
        is_begun.set()
        assert go_on.wait(60)
        return []

    def resolve(release_id: int, *components: Component) -> ResolveSummary:
        return resolve_recipients(
            inst.database,
            release_id,
            small_audience_threshold=1,
            time_zone=ZoneInfo("UTC"),
            history=timedelta(days=7),
            components=components,
            now=now(),
        )

    with ThreadPoolExecutor(max_workers=2) as pool:
        slow = pool.submit(resolve, first, Component(name="slow", stage="filter", function=dawdle))
        assert is_begun.wait(60)
        other = pool.submit(resolve, second)
        with inst.database.connect_autocommit() as connection:
            while not connection.scalar(
                text(
                    "SELECT count(*) FROM pg_locks, pg_sleep(0.02) WHERE locktype = 'advisory' AND NOT granted "
                    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
            ):
                assert not other.done()
        go_on.set()
        assert slow.result(timeout=60).bypassed == {}
        assert other.result(timeout=60).bypassed == {"duplicate": CONTACTS}

"""Spec 8.3, the worked example, day by day: three mails in seven days, and five of them on the first day."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path

import pytest
import yaml

from mail_orchestration.broadcast import (
    assemble_release,
    fill_audience,
    queue_release,
    release_campaign,
    releases_to_assemble,
    resolve_release,
)
from mail_orchestration.frequency.queue import rescan
from mail_orchestration.frequency.why import why
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.frequency import Rule
from mail_orchestration.mailcaster import run_shift
from tests.naive_frequency import NaiveFrequency
from tests.scenarios.installations import CAMPAIGN, HTML, address_of, execute, opened, tally, write_site
from tests.scenarios.relays.postfix_sink import Sink, storing_sink

THREE_IN_SEVEN = Rule(3, 7)


@dataclass(frozen=True)
class Course:
    """An installation with one reader, in days of the test's own."""

    inst: Installation
    sink: Sink

    def night(self, day: date) -> None:
        """A quarter of an hour into the day, what may go by now goes."""
        moment = self._at(day, time(0, 15))
        rescan(self.inst, now=moment)
        self._deliver(moment)

    def release(self, day: date, *subjects: str) -> None:
        """Campaigns, half an hour into the day: east of Greenwich it is the day before there."""
        moment = self._at(day, time(0, 30))
        for subject in subjects:
            folder = self.inst.settings.campaigns_dir / subject
            folder.mkdir()
            definition = {**CAMPAIGN, "name": subject, "subject": subject}
            (folder / "campaign.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
            (folder / "message.html.j2").write_text(HTML, encoding="utf-8")
            made = release_campaign(self.inst, folder, now=moment)
            resolve_release(self.inst, made.release_id, now=moment)
        self._deliver(moment)

    def arrived(self) -> set[str]:
        """Subjects of the mails that the relay has, each of which it has once."""
        subjects = [str(each["Subject"]) for each in self.sink.messages()]
        assert len(subjects) == len(set(subjects))
        return set(subjects)

    def until_when(self, day: date) -> list[tuple[Rule | None, date | None]]:
        """The answer to why each mail waits, and until when, most important first."""
        told = why(self.inst, address_of("r1"), now=self._at(day, time(12))).waiting
        return [(each.forbidden_by, each.free_on) for each in told]

    def _at(self, day: date, clock: time) -> datetime:
        return datetime.combine(day, clock, self.inst.settings.zone)

    def _deliver(self, moment: datetime) -> None:
        to_assemble = releases_to_assemble(self.inst)
        for release_id in to_assemble:
            assemble_release(self.inst, release_id, now=moment)
            queue_release(self.inst, release_id, now=moment)
        if to_assemble:
            run_shift(self.inst, "m1", stop=threading.Event())
        for release_id in to_assemble:
            # The relay's answer came at that moment, not at this.
            sent_then = "UPDATE result SET occurred_at = :moment WHERE release_id = :release_id"
            execute(self.inst, sent_then, moment=moment, release_id=release_id)
            tally(self.inst, release_id)


@pytest.mark.rule("8.3")
@pytest.mark.rule("8.4")
@pytest.mark.rule("8.9")
@pytest.mark.parametrize(
    ("window", "first", "second", "third"),
    [
        ("rolling", date(2025, 5, 20), date(2025, 5, 28), date(2025, 6, 5)),
        # In Berlin October 27 has 25 hours, March 30 has 23.
        ("rolling", date(2024, 10, 24), date(2024, 11, 1), date(2024, 11, 9)),
        ("calendar", date(2025, 3, 26), date(2025, 4, 2), date(2025, 4, 9)),
    ],
)
def test_three_go_at_once_two_after_the_days_and_then_one_more(
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    window: str,
    first: date,
    second: date,
    third: date,
) -> None:
    policy = {
        "enabled": True,
        "window": window,
        "rules": [{"max_mails": 3, "days": 7}],
    }
    expected = {first: {"1", "2", "3"}, second: {"4", "5"}, second + timedelta(days=2): {"6"}, third: {"7"}}
    naive = NaiveFrequency()
    with storing_sink() as sink:
        settings = write_site(tmp_path, relay_port=sink.port, contacts=1, frequency=policy)
        with settings.open("a", encoding="utf-8") as file:
            file.write("time_zone: Europe/Berlin\n")
        with opened(settings, database_url, monkeypatch) as inst:
            course = Course(inst, sink)
            fill_audience(inst, "everybody", now=datetime.combine(first, time(0, 5), inst.settings.zone))
            day, before = first, set[str]()
            while day <= third:
                course.night(day)
                if day == first:
                    course.release(day, "1", "2", "3", "4", "5")
                    assert course.until_when(day) == [(THREE_IN_SEVEN, second)] * 2
                elif day == second + timedelta(days=2):
                    course.release(day, "6", "7")
                    assert course.until_when(day) == [(THREE_IN_SEVEN, third)]
                came = course.arrived() - before
                assert came == expected.get(day, set()), day
                for _ in came:
                    assert naive.allowed("r1", day, [(3, 7)], window)
                    naive.send("r1", day)
                before |= came
                day += timedelta(days=1)
            assert course.until_when(third) == []

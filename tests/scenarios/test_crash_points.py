"""A process is killed at every crash point in turn; whoever comes after it ends the course, and nobody is lost.

For each point a copy of a prepared database, a victim that dies there (see `crash_victims`), and the same course once
more without a crash. What is judged is the same for all: see `crash_judgement`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from mail_orchestration.audience.csv_source import CsvSource
from mail_orchestration.broadcast import fill_audience
from mail_orchestration.control import Scope, restart
from mail_orchestration.holding import resume
from mail_orchestration.installation import Installation, open_installation
from mail_orchestration.kernel.crash_points import CRASH_POINTS
from tests.scenarios.crash_course import NO_INTERFERENCE, STEPS, now, run_course, write_course
from tests.scenarios.crash_judgement import judge
from tests.scenarios.crash_table import CRASHES, SWEPT_ELSEWHERE, Crash
from tests.scenarios.crash_victims import Death, Victim, VictimServer
from tests.scenarios.installations import hours_pass, use_database
from tests.scenarios.relays.postfix_sink import Sink, storing_sink


@dataclass
class Site:
    """Prepared databases, a relay that keeps what it gets, and the server of victims."""

    folder: Path
    sink: Sink
    victims: VictimServer
    server_url: str
    create_database: Callable[..., str]
    templates: dict[str, str] = field(default_factory=dict)
    """By the step that is to come: the name of a database in which all before it is done."""

    def settings(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    @contextmanager
    def opened(self) -> Iterator[Installation]:
        """The installation on a copy of a database, which sends nothing before the operator confirms it (5.8)."""
        with open_installation(self.settings("quick"), application_name="tests") as inst:
            resume(inst, after_restore=True)
            yield inst

    def copy(self, template: str) -> str:
        url = self.create_database(template)
        with psycopg.connect(url) as connection:
            # Else the copy is taken for a restored database, and sends nothing.
            connection.execute("DELETE FROM mail_orchestration.database_identity")
        return url

    def drop(self, url: str) -> None:
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(urlsplit(url).path[1:]))
            )

    def let_die(self, point: str, crash: Crash) -> Death:
        victim = Victim(
            settings=str(self.settings(crash.settings)),
            crash_at=f"{point}:{crash.passing}",
            first=crash.first,
            interference=asdict(crash.interference),
        )
        return self.victims.run(victim, {"DATABASE_URL": os.environ["DATABASE_URL"]})


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    create_database: Callable[..., str],
    migrated_template: str,
    server_url: str,
) -> Iterator[Site]:
    """One for all points: the course, taken once without a crash, leaves a database before each step."""
    folder = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch, storing_sink() as sink, ExitStack() as stack:
        url = create_database(migrated_template)
        use_database(url, patch)
        victims = stack.enter_context(VictimServer())
        dropping = stack.enter_context(storing_sink("-q", "."))
        deferring = stack.enter_context(storing_sink("-r", "rcpt"))
        write_course(folder, sink.port, dropping.port, deferring.port)
        made = Site(folder, sink, victims, server_url, create_database)
        with made.opened() as inst:
            fill_audience(inst, "many", source=CsvSource(path=folder / "older.csv"), now=now())
        made.templates[STEPS[0].__name__] = urlsplit(url).path[1:]
        for step, following in pairwise(STEPS):
            url = made.copy(made.templates[step.__name__])
            patch.setenv("DATABASE_URL", url)
            with made.opened() as inst:
                step(inst, NO_INTERFERENCE)
            made.templates[following.__name__] = urlsplit(url).path[1:]
        yield made


def test_every_point_is_swept() -> None:
    assert set(CRASHES) | set(SWEPT_ELSEWHERE) == set(CRASH_POINTS)
    assert not set(CRASHES) & set(SWEPT_ELSEWHERE)


@pytest.mark.rule("5.1", "5.3", "1.3", "1.8", "3.3")
@pytest.mark.parametrize("point", CRASHES)
def test_nobody_is_lost_and_little_is_repeated_after_a_crash_at(
    point: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = CRASHES[point]
    url = site.copy(site.templates[crash.on or crash.first])
    monkeypatch.setenv("DATABASE_URL", url)
    for file in site.sink.files():
        file.unlink()
    deaths = 1
    with site.opened() as inst:
        if crash.after is not None:
            before = site.let_die(crash.after_at, crash.after)
            assert before.signal == signal.SIGKILL, f"never passed: {before}"
            hours_pass(inst, 120 if crash.is_too_old else 3)
            deaths += 1
        death = site.let_die(point, crash)
        assert f"CRASH_AT: this process dies at {point}\n" in death.said, f"never passed: {death}"
        assert (death.signal, death.exit_code) == (0 if crash.victim_survives else signal.SIGKILL, 0)
        hours_pass(inst, 3)
        restart(inst, Scope(everything=True))
        run_course(inst, crash.first)
        was_delivered_before = crash.first in ("report", "close", "clean")
        judge(inst, None if was_delivered_before else site.sink, deaths, was_too_old=crash.is_too_old)
    site.drop(url)

"""An installation as somebody at a command line has it, with a relay that runs."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mail_orchestration.cli.commands import run
from mail_orchestration.cli.demo_relay import PORT_FILE, stored_message
from mail_orchestration.cli.exit_codes import ExitCode
from tests.integration.cli_answers import Said
from tests.scenarios.installations import use_database

CONTACTS = 130

SETTINGS = """\
relays:
  - {{ name: local, host: 127.0.0.1, port: {port}, tls: none{more} }}
mailcasters:
  - {{ name: one, small_audience_threshold: 10, min_job_size: 20, max_job_size: 50, percentage_job_size: 10 }}
audiences:
  - {{ name: readers, csv: readers.csv }}
"""
CAMPAIGN = """\
name: letter
from: Post Office <post@example.org>
subject: A letter to {{ name }}
audiences: [readers]
sample_contact: { name: Zoë }
"""
HTML = '<p>Dear {{ name }}</p><p><a href="{{ unsubscribe_url }}">no more</a></p>\n'


@dataclass(frozen=True)
class CliSite:
    """An installation in the current folder, and the relay that it sends to."""

    folder: Path
    relay: Path

    def write_settings(self, **more: object) -> None:
        """The relay's section with these keys, too."""
        port = int((self.relay / PORT_FILE).read_text())
        extra = "".join(f", {key}: {value}" for key, value in more.items())
        (self.folder / "mail_orchestration.yaml").write_text(SETTINGS.format(port=port, more=extra))

    def stored(self) -> dict[str, bytes]:
        """What the relay has, by recipient; each exactly once."""
        pairs = [stored_message(file) for file in (self.relay / "new").iterdir()]
        found = dict(pairs)
        assert len(found) == len(pairs)
        return found


@contextlib.contextmanager
def demo_relay(folder: Path) -> Iterator[Path]:
    """The demo's relay in a process of its own."""
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-m", "mail_orchestration.cli.demo_relay", str(folder)])
    try:
        while not (folder / PORT_FILE).exists():
            assert process.poll() is None
            time.sleep(0.02)
        yield folder
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def site(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> Iterator[CliSite]:
    """130 readers of whom two are refused, a campaign, one mailcaster, a relay."""
    monkeypatch.chdir(tmp_path)
    use_database(database_url, monkeypatch)
    monkeypatch.delenv("MAIL_ORCHESTRATION_SETTINGS", raising=False)
    # For child processes, which run in another folder: the tests need no installed package.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    campaign = tmp_path / "campaigns" / "letter"
    campaign.mkdir(parents=True)
    (campaign / "campaign.yaml").write_text(CAMPAIGN)
    (campaign / "message.html.j2").write_text(HTML)
    names = ["gone.1", "full.2", *(f"r{number}" for number in range(3, CONTACTS + 1))]
    (tmp_path / "readers.csv").write_text(
        "email,name\n" + "".join(f"{name}@example.net,Reader {name}\n" for name in names)
    )
    with demo_relay(tmp_path / "relay") as relay:
        made = CliSite(tmp_path, relay)
        made.write_settings()
        assert run(["import"]) == ExitCode.OK
        capsys.readouterr()
        yield made

"""An installation that sends single mails, and what a test asks of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mail_orchestration.dispatch.loose_mail_lists import delivery_log
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.single_mailer import SingleMail, run_loose_shift
from tests.scenarios.installations import address_of, opened, write_site
from tests.scenarios.relays.scripted import ScriptedRelay


@contextmanager
def site(
    folder: Path,
    server: ScriptedRelay,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    **parts: Any,
) -> Iterator[Installation]:
    """As `write_site` makes it, with a scripted relay."""
    with opened(write_site(folder, relay_port=server.port, **parts), database_url, monkeypatch) as inst:
        yield inst


def mail(local: str = "ann", **parts: Any) -> SingleMail:
    """To this local part; `parts` are changes."""
    attributes = {"name": "Ann", "number": 1}
    return SingleMail(**{"campaign": "letter", "to": address_of(local), "attributes": attributes, **parts})


def send(inst: Installation) -> dict[Outcome, int]:
    """A shift of a single mailer; what came of it."""
    return dict(run_loose_shift(inst, "s1", stop=threading.Event()).tally.outcomes)


def states(inst: Installation) -> dict[str, str]:
    """State by local part, of those that have not come to their end."""
    with inst.database.begin() as connection:
        rows = connection.execute(text("SELECT split_part(address, '@', 1) AS local, state FROM loose_mail"))
        return {row.local: row.state for row in rows}


def logged(inst: Installation) -> dict[str, Outcome]:
    """Outcome by local part, of those that have."""
    with inst.database.begin() as connection:
        return {each.address.partition("@")[0]: each.outcome for each in delivery_log(connection, 1)}

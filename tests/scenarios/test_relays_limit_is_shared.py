"""Several mailcasters, each a process of its own, send through one relay: together never more than its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.installations import opened, released, start_mailcaster, tally, write_site
from tests.scenarios.relays.arrivals import begun, most_in_a_window
from tests.scenarios.relays.beside import relay_beside

PER_SECOND, PER_MINUTE = 60, 3000
"""50 in a second is what both allow together."""
CONTACTS = 300


@pytest.mark.rule("6.7")
@pytest.mark.parametrize("mailcasters", [1, 4])
def test_no_window_has_more_than_the_limit(
    mailcasters: int, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {"min_job_size": 20, "max_job_size": 60, "percentage_job_size": 10, "connections": 5}
    names = [f"m{number}" for number in range(mailcasters)]
    with relay_beside() as server:
        settings = write_site(
            tmp_path,
            relay_port=server.port,
            contacts=CONTACTS,
            mailcasters=[{"name": name, **parameters} for name in names],
            relay={"limits": {"per_second": PER_SECOND, "per_minute": PER_MINUTE}},
        )
        with opened(settings, database_url, monkeypatch) as inst:
            release_id = released(inst)
            begin = tmp_path / "begin"
            processes = [start_mailcaster(inst, name, waits_for=begin) for name in names]
            begin.touch()
            assert [process.wait(120) for process in processes] == [0] * mailcasters
            assert tally(inst, release_id).accepted == CONTACTS
    moments = begun(server)
    assert len(moments) == CONTACTS
    assert most_in_a_window(moments, 1.0) <= PER_SECOND
    assert most_in_a_window(moments, 60.0) <= PER_MINUTE

"""A full disk under the embedded server: said clearly at the start and in mid-run, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.errors import DatabaseUnavailable

_COUNT = text("SELECT count(*) FROM public.numbers")


@pytest.fixture
def small_disk(short_folder: Path) -> Iterator[Callable[[int], Path]]:
    """A function that mounts a file system of so many megabytes and returns its folder."""
    mounted: list[Path] = []

    def mount(megabytes: int) -> Path:
        folder = short_folder / f"disk{megabytes}"
        folder.mkdir()
        options = f"size={megabytes}m,mode=0711"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False)
        if done.returncode != 0:
            pytest.skip("no file system may be mounted here")
        mounted.append(folder)
        return folder

    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    yield mount
    for folder in mounted:
        # The keeper has its lock file open for up to a second more.
        while subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode != 0:
            time.sleep(0.1)


@pytest.mark.parametrize("megabytes", [1, 10, 35])
def test_no_room_for_a_cluster_names_the_folder(small_disk: Callable[[int], Path], megabytes: int) -> None:
    folder = small_disk(megabytes)
    with pytest.raises(DatabaseUnavailable, match=f"{folder}.*No space left on device"):
        EmbeddedServer.hold(folder)
    assert list((folder / "postgres").glob("data*")) == []


def test_a_disk_that_fills_up_is_database_unavailable_and_keeps_what_was_committed(
    small_disk: Callable[[int], Path],
) -> None:
    folder = small_disk(110)
    with Database.open(None, folder, application_name="tests") as database:
        with database.begin() as connection:
            connection.execute(
                text("CREATE TABLE public.numbers AS SELECT n FROM generate_series(1, 1000) AS n")
            )
        with pytest.raises(DatabaseUnavailable) as caught:
            _fill(database)
        assert str(folder) in str(caught.value)
        assert "No space left on device" in str(caught.value)
        with database.begin() as connection:
            assert connection.scalar(_COUNT) == 1000


def _fill(database: Database) -> None:
    def insert(connection: Connection) -> None:
        connection.execute(text("INSERT INTO public.numbers SELECT n FROM generate_series(1, 5000000) AS n"))

    with database.begin() as connection:
        insert(connection)

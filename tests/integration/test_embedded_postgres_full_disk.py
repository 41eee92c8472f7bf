"""A full disk under the embedded server: said clearly at the start and in mid-run, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from mail_orchestration.kernel.database import Database
from mail_orchestration.kernel.embedded_postgres import EmbeddedServer
from mail_orchestration.kernel.errors import DatabaseUnavailable
from tests.integration.embedded_servers import small_disk

__all__ = ["small_disk"]

_COUNT = text("SELECT count(*) FROM public.numbers")


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

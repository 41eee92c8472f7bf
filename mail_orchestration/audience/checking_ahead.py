"""A source is read and its rows are checked ahead of the database, which merges what came before meanwhile.

A large file is read by a process of its own: a thread would share Python's one lock with the thread that talks to the
database. Everything else is read by a thread, since a process takes some 0.4 s to begin, and since a DataFrame
or a connection cannot be handed to one.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection

from mail_orchestration.audience.checking_process import Answer, run_checking
from mail_orchestration.audience.chunks import Chunk, Destination
from mail_orchestration.audience.csv_source import CsvSource, DirectMailerSource
from mail_orchestration.audience.rows import ROWS_PER_BATCH, Source
from mail_orchestration.audience.staging import StagedBatch, stage
from mail_orchestration.audience.table_sources import ParquetSource
from mail_orchestration.kernel.errors import BadAudience

TakeContactIds = Callable[[int, Sequence[str]], Sequence[int]]
"""Given by the caller: so many numbers for new contacts, or none when they are not all new. Beside the count are some
of the addresses' keys, to see by; a process is given its numbers before it has read any."""

_WORTH_A_PROCESS = 8_000_000
"""Octets of a file, some 100,000 rows; from 6 MB on a process was as fast as a thread."""
_TURN_S = 0.0005
"""Of a thread that others wait for; Python's own is ten times as long."""
_ORDERS_AHEAD = 2
_ROWS_AT_MOST = ROWS_PER_BATCH + 1_000
"""Of a batch: files end theirs with a block of up to 1,000 lines. What is not used of so many numbers is lost."""
_processes = multiprocessing.get_context("forkserver")


def _no_contact_ids(count: int, some_keys: Sequence[str]) -> Sequence[int]:
    return ()


def checked_ahead(
    source: Source,
    *,
    address_only: bool = False,
    destination: Destination | None = None,
    take_contact_ids: TakeContactIds = _no_contact_ids,
) -> Generator[Chunk, None, None]:
    """The source's rows, checked, in bounded memory: close it when it is left before its end.

    Raises BadAudience when the source cannot be read to its end. With `address_only` see `stage`.
    """
    if _is_large_file(source) and not multiprocessing.current_process().daemon:
        return _by_process(source, address_only, destination, take_contact_ids)
    return _by_thread(source, address_only, destination, take_contact_ids)


def _is_large_file(source: Source) -> bool:
    if not isinstance(source, (CsvSource, DirectMailerSource, ParquetSource)):
        return False
    try:
        return source.path.stat().st_size >= _WORTH_A_PROCESS
    except (OSError, ValueError):
        return False  # the source itself says best what is wrong


def _by_thread(
    source: Source, address_only: bool, destination: Destination | None, take_contact_ids: TakeContactIds
) -> Generator[Chunk, None, None]:
    batches = source.batches()

    def following() -> StagedBatch | None:
        batch = next(batches, None)
        return None if batch is None else stage(batch, address_only=address_only)

    with _short_turns(), ThreadPoolExecutor(max_workers=1, thread_name_prefix="audience-source") as thread:
        ahead: Future[StagedBatch | None] = thread.submit(following)
        try:
            while (staged := ahead.result()) is not None:
                ahead = thread.submit(following)
                contact_ids = take_contact_ids(len(staged.rows), staged.some_keys()) if staged.rows else ()
                chunk = Chunk.of(staged, destination, contact_ids)
                # Else more than one batch lies in memory here while the next is read.
                del staged
                yield chunk
                del chunk
        finally:
            # In the thread that reads: some drivers' connections know only the thread that made them.
            thread.submit(getattr(batches, "close", lambda: None)).result()


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let the thread that talks to the database go on soon after each answer, while another one checks rows.

    It would wait 5 ms for Python's lock each time, and the database with it. Turns are a matter of the whole process:
    two imports at once in one may leave them long for the other, or short for good, which costs either a little.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _TURN_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _by_process(
    source: Source, address_only: bool, destination: Destination | None, take_contact_ids: TakeContactIds
) -> Generator[Chunk, None, None]:
    here, there = _processes.Pipe()
    process = _processes.Process(
        target=run_checking,
        args=(there, source, destination),
        kwargs={"address_only": address_only},
        daemon=True,
        name="audience-source",
    )
    with here:
        with there:
            process.start()
        try:
            for _ in range(_ORDERS_AHEAD):
                _order(here, source, take_contact_ids(_ROWS_AT_MOST, ()))
            while (answer := _answer(here, source)) is not None:
                if isinstance(answer, BadAudience):
                    raise answer
                _order(here, source, take_contact_ids(_ROWS_AT_MOST, ()))
                yield answer
                del answer
        finally:
            # It keeps nothing that a kill could spoil.
            process.kill()
            process.join()
            process.close()


def _order(connection: Connection, source: Source, contact_ids: Sequence[int]) -> None:
    try:
        connection.send(contact_ids)
    except OSError:
        raise _ended(source) from None


def _answer(connection: Connection, source: Source) -> Answer:
    try:
        answer: Answer = connection.recv()
    except (EOFError, OSError):
        raise _ended(source) from None
    return answer


def _ended(source: Source) -> BadAudience:
    return BadAudience(f"{source.name}: the process that reads it has ended before the last row")

"""The process that reads a large file and checks its rows while the database takes in what came before.

It answers each order, which holds numbers for new contacts or none, with a Chunk, at the end with None, and with
BadAudience when the source cannot be read to its end. Then it waits to be ended.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection

from mail_orchestration.audience.chunks import Chunk, Destination
from mail_orchestration.audience.rows import ROWS_PER_BATCH, Batch, Source
from mail_orchestration.audience.staging import StagedBatch, stage
from mail_orchestration.kernel.errors import BadAudience

Order = Sequence[int]
Answer = Chunk | BadAudience | None


def run_checking(
    connection: Connection, source: Source, destination: Destination | None, *, address_only: bool
) -> None:
    """Serve the parent at the other end of `connection` until it closes that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to decide on
    # Rows make no cycles: a batch of them, which lives for a moment, is not worth looking through again and again.
    gc.freeze()
    gc.set_threshold(5 * ROWS_PER_BATCH)
    # Sent by a thread: this one reads on while the parent is busy with the last chunk and takes no other.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers") as sender:
        batches = source.batches()
        sent: Future[None] | None = None
        try:
            while isinstance(following := _following(batches, address_only=address_only), StagedBatch):
                order: Order = connection.recv()
                chunk = Chunk.of(following, destination, order)
                if sent is not None:
                    sent.result()
                sent = sender.submit(connection.send, chunk)
                del following, chunk
            if sent is not None:
                sent.result()
            connection.send(following)
            while True:
                connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _following(batches: Iterator[Batch], *, address_only: bool) -> StagedBatch | BadAudience | None:
    try:
        batch = next(batches, None)
    except BadAudience as error:
        return error
    return None if batch is None else stage(batch, address_only=address_only)

"""Assembly: all messages of a mail job, by processes that a bad template can end but not hold up (spec 2.7).

Batches go out to workers and come back in order, at most two per worker under way. A worker that dies on a
batch is replaced, and the batch is cut around the recipient it died on; who ends a worker alone is bypassed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import TracebackType
from typing import Any, Self

from mail_orchestration.composition.assembly_pieces import Batch, Piece, cut
from mail_orchestration.composition.assembly_worker import (
    NOT_BEGUN,
    Asked,
    AssembledBatch,
    AssembledMessage,
    Limits,
    Order,
    Setup,
    run_worker,
)
from mail_orchestration.composition.composer import Composer
from mail_orchestration.composition.context import MailJobFacts
from mail_orchestration.composition.definition import Campaign
from mail_orchestration.composition.errors import FaultReason
from mail_orchestration.composition.imagined import make_dictionary
from mail_orchestration.kernel.dkim_keys import DkimKey
from mail_orchestration.kernel.errors import AssemblyFailed, ComponentFailed
from mail_orchestration.kernel.model import Bypass, Recipient
from mail_orchestration.kernel.pages import Page, PageRequest, PageUnavailable
from mail_orchestration.kernel.tokens import SigningKeys

FetchPages = Callable[[Sequence[PageRequest]], Sequence[Page | PageUnavailable]]
"""Given by the story, since composition opens no socket: an answer for each request, in order."""

__all__ = ["AssembledBatch", "AssembledMessage", "AssemblyPool", "FetchPages", "Limits"]

_MAXIMUM_NEVER_BEGUN = 5
_log = logging.getLogger(__name__)
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["mail_orchestration.composition.assembly_worker"])


class _Worker:
    """A process, the pipe to it, and what it works on."""

    def __init__(self, setup: Setup) -> None:
        self.connection: Connection
        self.connection, child_end = _processes.Pipe()
        self._progress: Any = _processes.RawValue("q", NOT_BEGUN)
        self.process: ForkServerProcess = _processes.Process(
            target=run_worker, args=(child_end, self._progress, setup), daemon=True, name="assembly"
        )
        self.process.start()
        child_end.close()
        self.piece: Piece | None = None

    @property
    def died_on(self) -> int:
        """Index of the recipient in work at the end."""
        return int(self._progress.value)

    def close(self, *, now: bool) -> None:
        self.connection.close()
        if now:
            self.process.kill()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()


class AssemblyPool:
    """Composes one mail job's recipients in `workers` processes, by default as many as there are processors.

    Use as a context manager. Raises `BadCampaign` at once when a template does not compile.
    """

    def __init__(
        self,
        campaign: Campaign,
        facts: MailJobFacts,
        keys: SigningKeys,
        *,
        workers: int | None = None,
        dictionary: bytes | None = None,
        models: Sequence[Recipient] = (),
        dkim_keys: Sequence[DkimKey] = (),
        fetch_pages: FetchPages | None = None,
        limits: Limits | None = None,
    ) -> None:
        composer = Composer(campaign, facts, keys, dkim_keys=dkim_keys)
        self._limits = limits or Limits()
        setup = Setup(
            files=dict(campaign.files),
            facts=facts,
            keys=keys,
            dkim_keys=tuple(dkim_keys),
            limits=self._limits,
            models=tuple(models),
        )
        self.dictionary = dictionary or _made_by_worker(setup) or make_dictionary(composer, rendered=False)
        """What a `Compressor` needs to read the stored messages back: keep it with the mail job."""
        self._setup = replace(setup, dictionary=self.dictionary, models=())
        self._asks = campaign.definition.content_url is not None
        self._fetch_pages = fetch_pages
        self._size = workers or len(os.sched_getaffinity(0))
        self._workers: list[_Worker] = []
        self._waiting: deque[Piece] = deque()
        self._breaches = 0
        self._never_begun = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close(now=worker.piece is not None)
        self._workers.clear()
        self._waiting.clear()

    def assemble(
        self, batches: Iterable[Sequence[Recipient]], *, dated: datetime | None = None
    ) -> Iterator[AssembledBatch]:
        """The batches' results, in order; `batches` is drawn from as results are taken.

        `dated` is the moment of messages that belong to no mail job. Raises `AssemblyFailed` when so many messages
        were beyond the limits that the template must be at fault.
        """
        source = iter(batches)
        under_way: deque[Batch] = deque()
        exhausted = False
        try:
            while True:
                while not exhausted and len(under_way) < 2 * self._size:
                    recipients = next(source, None)
                    if recipients is None:
                        exhausted = True
                    else:
                        under_way.append(self._begin(recipients, dated))
                self._hand_out()
                if under_way and not under_way[0].pieces_left:
                    yield under_way.popleft().result()
                elif under_way:
                    self._collect()
                elif exhausted:
                    return
        finally:
            if under_way:  # given up half-way: nobody waits for what the workers still do
                self.close()

    def _begin(self, recipients: Sequence[Recipient], dated: datetime | None) -> Batch:
        batch = Batch()
        if recipients:
            order = Order(recipients, ask_for_pages=self._asks, dated=dated)
            self._waiting.append(Piece(batch, 0, recipients, order))
        else:
            batch.pieces_left = 0
        return batch

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.piece is None and self._waiting:
                self._give(worker)
        while self._waiting and len(self._workers) < self._size:
            worker = _Worker(self._setup)
            self._workers.append(worker)
            self._give(worker)

    def _give(self, worker: _Worker) -> None:
        worker.piece = self._waiting.popleft()
        try:
            worker.connection.send(worker.piece.order)
        except (BrokenPipeError, ConnectionResetError):
            self._bury(worker)

    def _collect(self) -> None:
        by_connection = {worker.connection: worker for worker in self._workers if worker.piece is not None}
        for ready in wait(list(by_connection)):
            worker = by_connection[ready]  # type: ignore[index]
            try:
                answer: AssembledBatch | Asked = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                self._bury(worker)
                continue
            piece, worker.piece = worker.piece, None
            self._never_begun = 0
            if piece is None:
                continue
            if isinstance(answer, AssembledBatch):
                self._settle(piece, answer)
            else:
                self._fetch(piece, answer)

    def _settle(self, piece: Piece, result: AssembledBatch) -> None:
        piece.batch.done.append((piece.start, result))
        piece.batch.pieces_left -= 1
        beyond = [each for each in result.bypasses if each.reason == FaultReason.TEMPLATE_LIMITS]
        self._breaches += len(beyond)
        if beyond and self._breaches >= self._limits.maximum_breaches:
            raise AssemblyFailed(
                f"{self._breaches} messages were beyond the limits; the last: {beyond[-1].detail}"
            )

    def _fetch(self, piece: Piece, asked: Asked) -> None:
        """Have the pages fetched, then compose those recipients who have a page to ask for."""
        if self._fetch_pages is None:
            raise ComponentFailed("the campaign's body is a page, and nothing was given to fetch pages with")
        requests = [each for each in asked if not isinstance(each, Bypass)]
        answers = iter(self._fetch_pages(requests) if requests else ())
        kept: list[Recipient] = []
        pages: list[Page | PageUnavailable] = []
        bypasses: list[Bypass] = []
        for recipient, each in zip(piece.recipients, asked, strict=False):
            if isinstance(each, Bypass):
                bypasses.append(each)
            else:
                kept.append(recipient)
                pages.append(next(answers))
        piece.batch.pieces_left += 1
        self._settle(piece, AssembledBatch([], bypasses))
        order = Order(kept, pages, dated=piece.order.dated)
        self._waiting.appendleft(Piece(piece.batch, piece.start, kept, order))

    def _bury(self, worker: _Worker) -> None:
        """A worker died: cut its piece around the recipient it died on."""
        piece, index = worker.piece, worker.died_on
        self._workers.remove(worker)
        worker.piece = None
        worker.close(now=True)
        if piece is None:
            return
        if index == NOT_BEGUN:
            self._never_begun += 1
            if self._never_begun > _MAXIMUM_NEVER_BEGUN:
                raise AssemblyFailed("the processes that compose messages end before they begin")
            self._waiting.appendleft(piece)
            return
        recipient = piece.recipients[index]
        _log.warning("an assembly worker ended on recipient %d", recipient.recipient_no)
        if len(piece.recipients) == 1:
            detail = "the process that composed it ran out of time or memory and was ended"
            bypass = Bypass(
                recipient_no=recipient.recipient_no, reason=FaultReason.TEMPLATE_LIMITS, detail=detail
            )
            self._settle(piece, AssembledBatch([], [bypass]))
            return
        cuts = [(0, index), (index, index + 1), (index + 1, len(piece.recipients))]
        pieces = [cut(piece, start, end) for start, end in cuts if end > start]
        piece.batch.pieces_left += len(pieces) - 1
        self._waiting.extendleft(reversed(pieces))


def _made_by_worker(setup: Setup) -> bytes | None:
    """The dictionary, or None when making it took too much, or ended the worker."""
    worker = _Worker(setup)
    made: bytes | None = None
    try:
        made = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        pass
    finally:
        worker.close(now=False)
    if made is None:
        _log.warning(
            "mail job %d: messages to imagined contacts took too much time or memory; "
            "the dictionary of stored messages is made without them, and those will be larger",
            setup.facts.mail_job_id,
        )
    return made

"""The inside of an assembly worker: a process that composes batches under limits until its pipe closes."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection
from typing import NamedTuple, Protocol, TypeVar

from mail_orchestration.composition.composer import Composer
from mail_orchestration.composition.compression import MOST_MESSAGES, Compressor, Cut, Packer
from mail_orchestration.composition.context import MailJobFacts
from mail_orchestration.composition.definition import campaign_from_files
from mail_orchestration.composition.errors import CompositionError, FaultReason
from mail_orchestration.composition.imagined import make_dictionary
from mail_orchestration.composition.limits import TookTooLong, cpu_limit, install_cpu_limit, limit_memory
from mail_orchestration.composition.templates import place_of
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.dkim_keys import DkimKey
from mail_orchestration.kernel.model import Bypass, Recipient
from mail_orchestration.kernel.pages import Page, PageRequest, PageUnavailable
from mail_orchestration.kernel.tokens import SigningKeys

NOT_BEGUN = -1
_T = TypeVar("_T")


class AssembledMessage(NamedTuple):
    """What is known of one message that is ready to be stored. A tuple, since a million of them pass through pipes."""

    recipient_no: int
    contact_id: int
    address: str
    size: int
    """Octets of the message itself."""
    place: int
    """Of its text in its block; 0 begins the next block."""


@dataclass(frozen=True, slots=True)
class AssembledBatch:
    """What became of one batch: every recipient of it is a message or a bypass, in the batch's order."""

    messages: list[AssembledMessage] = field(default_factory=list)
    bypasses: list[Bypass] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    """The texts of the messages, as `Compressor.pack` gave them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one message and one worker may take."""

    message_cpu_seconds: float = 2.0
    worker_megabytes: int = 160
    """Memory for data, beyond what a worker holds when it begins."""
    maximum_breaches: int = 5
    """So many messages beyond the limits say that the template is at fault, not the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All that a worker needs to know, once."""

    files: dict[str, bytes]
    facts: MailJobFacts
    keys: SigningKeys = field(repr=False)
    dictionary: bytes | None = field(default=None, repr=False)
    """None asks the worker to make it: its first message is the dictionary, or None, and it ends."""
    models: tuple[Recipient, ...] = field(default=(), repr=False)
    """Some of the recipients, after the shape of whose attributes it is made; domains that they share are in it."""
    dkim_keys: tuple[DkimKey, ...] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Order:
    """Work: compose these, with the pages when bodies are pages; or say which pages to fetch first."""

    recipients: Sequence[Recipient]
    pages: Sequence[Page | PageUnavailable | None] | None = None
    ask_for_pages: bool = False
    dated: datetime | None = None
    """The moment of messages that are composed by themselves: see `Composer.compose`. Each is a block of its own."""


Asked = list[PageRequest | Bypass]


class Progress(Protocol):
    """Shared with the parent: the index of the recipient in work, so that a death has a name."""

    value: int


def run_worker(connection: Connection, progress: Progress, setup: Setup) -> None:
    """Answer each `Order` with an `AssembledBatch`, or with the pages to fetch, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to decide on
    install_cpu_limit()
    composer = Composer(campaign_from_files(setup.files), setup.facts, setup.keys, dkim_keys=setup.dkim_keys)
    limit_memory(setup.limits.worker_megabytes)
    if setup.dictionary is None:
        connection.send(_make_dictionary(composer, setup))
        return
    compressor = Compressor(setup.dictionary)
    gc.collect()
    gc.freeze()
    while True:
        try:
            order: Order = connection.recv()
            crash_point("assembly_worker_began")
            answer: Asked | AssembledBatch
            if order.ask_for_pages:
                answer = _ask(composer, order, progress, setup.limits)
            else:
                answer = _compose(composer, compressor, order, progress, setup.limits)
            crash_point("assembly_worker_composed")
            connection.send(answer)
            del order, answer
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        progress.value = NOT_BEGUN


def _make_dictionary(composer: Composer, setup: Setup) -> bytes | None:
    """None where that takes more than a message may."""
    seconds = setup.limits.message_cpu_seconds
    try:
        with cpu_limit(seconds):
            return make_dictionary(composer, models=setup.models, cpu_seconds=seconds / 2)
    except (TookTooLong, MemoryError):
        return None


def _ask(composer: Composer, order: Order, progress: Progress, limits: Limits) -> Asked:
    asked: Asked = []
    breaches = 0
    for index, recipient in enumerate(order.recipients):
        progress.value = index
        found = _within_limits(
            lambda each=recipient: composer.page_request(each, dated=order.dated),  # type: ignore[misc]
            recipient,
            limits,
        )
        if found is None:
            continue
        asked.append(found)
        breaches += isinstance(found, Bypass) and found.reason == FaultReason.TEMPLATE_LIMITS
        if breaches >= limits.maximum_breaches:
            break
    return asked


def _compose(
    composer: Composer, compressor: Compressor, order: Order, progress: Progress, limits: Limits
) -> AssembledBatch:
    batch = AssembledBatch()
    packer = Packer(compressor, MOST_MESSAGES if order.dated is None else 1)
    breaches = 0
    for index, recipient in enumerate(order.recipients):
        progress.value = index
        page = order.pages[index] if order.pages is not None else None
        found = _within_limits(
            lambda each=recipient, body=page: _assemble(  # type: ignore[misc]
                composer, compressor, each, body, order.dated
            ),
            recipient,
            limits,
        )
        if isinstance(found, Cut):
            # Not within the limits of this message: the block of those before it may be compressed.
            place = packer.add(found)
            batch.messages.append(
                AssembledMessage(
                    recipient.recipient_no, recipient.contact_id, recipient.address, found.size, place
                )
            )
            continue
        batch.bypasses.append(found)
        breaches += found.reason == FaultReason.TEMPLATE_LIMITS
        if breaches >= limits.maximum_breaches:
            break  # the parent gives up; composing the rest would take minutes
    batch.blocks.extend(packer.blocks())
    return batch


def _assemble(
    composer: Composer,
    compressor: Compressor,
    recipient: Recipient,
    page: Page | PageUnavailable | None,
    dated: datetime | None,
) -> Cut:
    if isinstance(page, PageUnavailable):
        raise CompositionError(FaultReason.PAGE_UNAVAILABLE, page.reason)
    message = composer.compose(recipient, page, dated=dated)
    return compressor.cut(message.data, message.fit_from)


def _within_limits(work: Callable[[], _T], recipient: Recipient, limits: Limits) -> _T | Bypass:
    try:
        with cpu_limit(limits.message_cpu_seconds):
            return work()
    except CompositionError as fault:
        reason, detail = fault.reason, fault.detail
    except TookTooLong as fault:
        reason = FaultReason.TEMPLATE_LIMITS
        detail = f"{place_of(fault)}: took more than {limits.message_cpu_seconds:g} s of CPU time"
    except MemoryError as fault:
        reason, detail = FaultReason.TEMPLATE_LIMITS, f"{place_of(fault)}: took too much memory"
    return Bypass(
        recipient_no=recipient.recipient_no, reason=reason, detail=detail.replace(recipient.address, "…")
    )

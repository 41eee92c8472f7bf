"""What assembly has under way: a batch, whole or cut into pieces, and its results in the batch's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mail_orchestration.composition.assembly_worker import AssembledBatch, Order
from mail_orchestration.kernel.model import Recipient


@dataclass(slots=True)
class Batch:
    """A batch under way, in one piece or several."""

    pieces_left: int = 1
    done: list[tuple[int, AssembledBatch]] = field(default_factory=list)

    def result(self) -> AssembledBatch:
        """Of all its pieces, in order."""
        whole = AssembledBatch()
        for _, piece in sorted(self.done, key=lambda each: each[0]):
            whole.messages.extend(piece.messages)
            whole.bypasses.extend(piece.bypasses)
            whole.blocks.extend(piece.blocks)
        return whole


@dataclass(slots=True)
class Piece:
    """Consecutive recipients of a batch, from its `start`-th on."""

    batch: Batch
    start: int
    recipients: Sequence[Recipient]
    order: Order


def cut(piece: Piece, start: int, end: int) -> Piece:
    """The piece's recipients from `start` to before `end`, as a piece of the same batch."""
    pages = piece.order.pages[start:end] if piece.order.pages is not None else None
    recipients = piece.recipients[start:end]
    return Piece(
        piece.batch, piece.start + start, recipients, replace(piece.order, recipients=recipients, pages=pages)
    )

"""Assembly: every message of a release is composed and stored before any of them is queued (spec 2.7)."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from sqlalchemy import Connection

from mail_orchestration.audience.handover import recipients_to_assemble
from mail_orchestration.campaigns import stop_if_edited
from mail_orchestration.composing import composing
from mail_orchestration.composition.assembly import AssembledBatch
from mail_orchestration.dispatch import message_store, releases
from mail_orchestration.dispatch.mail_jobs import transition
from mail_orchestration.frozen import FrozenRelease, read_frozen
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.components import load_components, run_components
from mail_orchestration.kernel.crash_points import crash_point
from mail_orchestration.kernel.errors import (
    AssemblyFailed,
    BadCampaign,
    ComponentFailed,
    NotFound,
    StateConflict,
)
from mail_orchestration.kernel.model import Bypass, Recipient
from mail_orchestration.kernel.states import MailJobState

ASSEMBLY_BATCH = 500
"""Recipients that go to an assembly process at once; a batch that breaks it is cut down to the one to blame."""
MODELS = 8
"""Recipients after whose shape the dictionary is made."""
PAGES_BATCH = 40
"""The same where bodies are pages of up to 2 MB, all of a batch in memory at once."""
COMMIT_RECIPIENTS = 5_000
"""Recipients that are settled in one transaction."""
COMMIT_OCTETS = 16_000_000
"""Stored octets that are written in one transaction though they be fewer."""

Progress = Callable[[int, int], None]
"""Told how many recipients of how many are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssemblySummary:
    """What assembly did with the recipients of a release."""

    messages: int
    bypassed: dict[str, int]
    """By reason: those that this stage bypassed."""
    composed_bytes: int = 0
    stored_bytes: int = 0
    seconds: float = 0.0
    already_done: bool = False
    """True when it had been assembled before: messages is the count, and nothing was done."""


def assemble_release(
    inst: Installation, release_id: int, *, now: datetime, progress: Progress | None = None
) -> AssemblySummary:
    """Compose and store every message of a resolved release. Cut off, it goes on where it was.

    Raises AssemblyFailed when more than the campaign's `maximum_assembly_failures_percentage` could not be composed,
    ComponentFailed when a custom component raised, NotFound when there is none by that name: the mail job is FAILED
    then, and nothing of it is sent. Raises StateConflict when it is not QUEUING, or becomes STOPPED meanwhile since its
    campaign was edited or deleted.
    """
    stop_if_edited(inst, release_id, now=now)
    with inst.database.dedicated() as session:
        if not releases.try_lock_assembly(session, release_id):
            raise StateConflict(f"mail job {release_id} is being assembled by another process")
        with inst.database.begin() as connection:
            frozen = read_frozen(connection, inst, release_id)
        release = frozen.release
        if release.assembled_at is not None:
            return AssemblySummary(messages=release.message_count, bypassed={}, already_done=True)
        if release.state is not MailJobState.QUEUING or release.resolved_at is None:
            raise StateConflict(f"mail job {release_id} is {release.state} and not ready to be assembled")
        try:
            return _Assembly(inst, frozen, progress).run(now)
        except (AssemblyFailed, ComponentFailed, BadCampaign, NotFound) as failure:
            with inst.database.begin() as connection:
                transition(
                    connection,
                    release_id,
                    leaves=MailJobState.QUEUING,
                    enters=MailJobState.FAILED,
                    reason=str(failure),
                    now=now,
                )
            raise


class _Assembly:
    """One run over what of a release is not assembled yet."""

    def __init__(self, inst: Installation, frozen: FrozenRelease, progress: Progress | None) -> None:
        self._inst = inst
        self._frozen = frozen
        self._release = frozen.release
        self._progress = progress
        named = frozen.campaign.definition.components
        self._stages = [
            component for stage in ("cookies", "compose") for component in load_components(named, stage)
        ]
        self._next_message = self._release.message_count + 1
        self._up_to = self._release.assembled_up_to
        with inst.database.begin() as connection:
            self._total, self._failed = releases.assembly_so_far(connection, self._release)
        self._bypassed: Counter[str] = Counter()
        self._composed_bytes = self._stored_bytes = 0
        self._set_aside: list[tuple[str, Bypass]] = []
        self._ends: deque[int] = deque()
        """The last recipient_no of each batch that was read and has not come back."""

    def run(self, now: datetime) -> AssemblySummary:
        """Assemble, store and conclude."""
        began, first_message = time.monotonic(), self._next_message
        with ExitStack() as stack:
            pool = stack.enter_context(
                composing(
                    self._inst,
                    self._frozen.campaign,
                    self._frozen.facts,
                    workers=self._inst.settings.dispatcher.assembly_processes,
                    dictionary=self._frozen.dictionary,
                    models=self._models(),
                )
            )
            with self._inst.database.begin() as connection:
                releases.keep_dictionary(connection, self._release.release_id, pool.dictionary, now)
            crash_point("assembly_dictionary_kept")
            reading = stack.enter_context(self._inst.database.connect_autocommit())
            gathered, octets = AssembledBatch(), 0
            for batch in pool.assemble(self._batches(reading)):
                self._up_to = self._ends.popleft()
                gathered.messages.extend(batch.messages)
                gathered.bypasses.extend(batch.bypasses)
                gathered.blocks.extend(batch.blocks)
                octets += sum(map(len, batch.blocks))
                settled = len(gathered.messages) + len(gathered.bypasses) + len(self._set_aside)
                if settled >= COMMIT_RECIPIENTS or octets >= COMMIT_OCTETS:
                    self._store(gathered)
                    gathered, octets = AssembledBatch(), 0
            self._store(gathered)
        crash_point("assembly_all_stored")
        with self._inst.database.begin() as connection:
            message_store.finish_assembly(connection, self._release.release_id, now)
            crash_point("assembly_marked")
        crash_point("assembly_committed")
        return AssemblySummary(
            messages=self._next_message - first_message,
            bypassed=dict(self._bypassed),
            composed_bytes=self._composed_bytes,
            stored_bytes=self._stored_bytes,
            seconds=time.monotonic() - began,
        )

    def _models(self) -> Sequence[Recipient]:
        """Some recipients, drawn by lot, always the same ones; none where the dictionary is kept."""
        if self._frozen.dictionary is not None:
            return ()
        release_id, count = self._release.release_id, self._release.recipient_count or 0
        chance = random.Random(release_id)  # noqa: S311 - whose messages are a sample guards nothing
        models: dict[int, Recipient] = {}  # by contact: who comes next to two draws may be the same
        with self._inst.database.connect_autocommit() as reading:
            for before in sorted(chance.sample(range(count), min(MODELS, count))):
                for batch in islice(recipients_to_assemble(reading, release_id, before, 1), 1):
                    models |= {each.contact_id: each for each in batch.recipients}
        return list(models.values())

    def _batches(self, reading: Connection) -> Iterator[Sequence[Recipient]]:
        """Recipients in order. Whom a custom component bypasses, and who left the audience, is set aside."""
        size = ASSEMBLY_BATCH if self._frozen.campaign.definition.content_url is None else PAGES_BATCH
        for batch in recipients_to_assemble(reading, self._release.release_id, self._up_to, size):
            self._ends.append(batch.up_to)
            self._set_aside += (("verify", bypass) for bypass in batch.bypasses)
            found = run_components(self._stages, batch.recipients)
            self._set_aside += ((component.stage, bypass) for component, bypass in found)
            bypassed = {bypass.recipient_no for _, bypass in found}
            yield [each for each in batch.recipients if each.recipient_no not in bypassed]

    def _store(self, batch: AssembledBatch) -> None:
        """One transaction: messages, reasons, and how far assembly got."""
        # Batches are read ahead of those that come back: what was set aside beyond this one waits for its turn.
        aside = [each for each in self._set_aside if each[1].recipient_no <= self._up_to]
        self._set_aside = [each for each in self._set_aside if each[1].recipient_no > self._up_to]
        self._write(batch, aside)

    def _write(self, batch: AssembledBatch, aside: Sequence[tuple[str, Bypass]]) -> None:
        release_id, released_on = self._release.release_id, self._release.released_on
        by_stage: dict[str, list[Bypass]] = {"compose": list(batch.bypasses)}
        for stage, bypass in aside:
            by_stage.setdefault(stage, []).append(bypass)
        with self._inst.database.begin() as connection:
            state = releases.read_release(connection, self._inst.installation_id, release_id).state
            if state is not MailJobState.QUEUING:
                raise StateConflict(f"mail job {release_id} is {state}: its assembly ends unfinished")
            self._next_message = message_store.store_messages(
                connection,
                released_on,
                release_id,
                self._next_message,
                [message_store.MessageToStore._make(each) for each in batch.messages],
                batch.blocks,
            )
            crash_point("assembly_batch_written")
            for stage, bypasses in by_stage.items():
                message_store.store_bypasses(connection, released_on, release_id, stage, bypasses)
        crash_point("assembly_batch_committed")
        for bypasses in by_stage.values():
            self._bypassed.update(bypass.reason for bypass in bypasses)
        self._composed_bytes += sum(each.size for each in batch.messages)
        self._stored_bytes += sum(map(len, batch.blocks))
        self._failed += len(batch.bypasses)
        self._refuse_too_many_failures(batch.bypasses)
        if self._progress is not None:
            self._progress(self._next_message - 1 + sum(self._bypassed.values()), self._total)

    def _refuse_too_many_failures(self, last: Sequence[Bypass]) -> None:
        most = self._frozen.campaign.definition.maximum_assembly_failures_percentage
        if self._failed * 100 > self._total * most:
            example = f"; for example {last[-1].reason}: {last[-1].detail}" if last else ""
            raise AssemblyFailed(
                f"{self._failed} of {self._total} messages could not be assembled, more than {most:g} %{example}"
            )

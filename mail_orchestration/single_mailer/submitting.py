"""Submitting single mails: each gets an answer of its own, and the good ones are queued (spec 7.1).

All that are submitted together are taken in one transaction: whoever has no answer, since the database went away,
submits them again, and what had been taken is a duplicate then (spec 6.6).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection

from mail_orchestration.audience.contacts import (
    Contact,
    contacts_by_number,
    ensure_contacts,
    suppressions_of,
)
from mail_orchestration.audience.suppressing import why_suppressed
from mail_orchestration.composition.definition import Campaign
from mail_orchestration.dispatch.queue_history import QueuedMail, history_key, queued_at, remember
from mail_orchestration.dispatch.single_mails import SingleMailContent, SingleMailRow, queue_single_mails
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.addresses import address_key
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.errors import BadAddress, BadInput
from mail_orchestration.kernel.failure_codes import FailureCode
from mail_orchestration.kernel.loose_mail_states import LooseMailState
from mail_orchestration.single_mailer.checking import CheckedMail, Refused, checked
from mail_orchestration.single_mailer.contents import (
    BadContent,
    Content,
    freeze_content,
    load_content,
    moment_of,
    refuse_stranger_to_test,
)
from mail_orchestration.single_mailer.mails import SingleMail, Submission, Submitted

MOST_AT_ONCE = 100_000
"""More than these are a release: it is made for a million, in bounded memory."""

_SUBMISSIONS = {
    LooseMailState.QUEUED: Submission.QUEUED,
    LooseMailState.SCHEDULED: Submission.SCHEDULED,
    LooseMailState.PAUSED: Submission.PAUSED,
}


def submit(inst: Installation, mails: SingleMail | Iterable[SingleMail]) -> list[Submitted]:
    """Queue one mail, or many at once. The answers are in the order of the mails, one for each.

    What a mail says is frozen as it is now (spec 2.1). Times are the database's. The same mail (campaign, content,
    attributes, occurrence and address) goes once within the history (spec 6.6), but for campaigns in test.

    Raises BadInput for more than MOST_AT_ONCE, and for what is no SingleMail, naming its place: then nothing was taken.
    Raises DatabaseUnavailable: then nothing was taken, or everything, and the same may be submitted again.
    """
    given = _given(mails)
    if len(given) > MOST_AT_ONCE:
        raise BadInput(f"more than {MOST_AT_ONCE} single mails at once: make a release of them")
    with inst.database.begin() as connection:
        now = database_now(connection)
    return _Submission(inst, now).run(given)


def _given(mails: SingleMail | Iterable[SingleMail]) -> list[SingleMail]:
    if isinstance(mails, SingleMail):
        return [mails]
    if not isinstance(mails, Iterable) or isinstance(mails, str | bytes | Mapping):
        raise BadInput(f"mails: must be a SingleMail or several of them, not {type(mails).__name__}")
    given = list(islice(mails, MOST_AT_ONCE + 1))
    for index, mail in enumerate(given):
        if not isinstance(mail, SingleMail):
            raise BadInput(f"mails[{index}]: must be a SingleMail, not {type(mail).__name__}")
    return given


@dataclass(slots=True)
class _Candidate:
    """A mail about which there is nothing to be said yet."""

    index: int
    content: Content
    checked: CheckedMail
    due_at: datetime
    contact: Contact

    @property
    def campaign(self) -> Campaign:
        return self.content.campaign

    @property
    def is_remembered(self) -> bool:
        """Whether the queue history knows it: a campaign that is tried out may send the same again (spec 3.5)."""
        return self.campaign.definition.state != "test"


class _Submission:
    def __init__(self, inst: Installation, now: datetime) -> None:
        self._inst = inst
        self._now = now
        self._answers: dict[int, Submitted] = {}
        self._contents: dict[str | Path, Content | BadContent] = {}

    def run(self, mails: Sequence[SingleMail]) -> list[Submitted]:
        good = [found for index, mail in enumerate(mails) if (found := self._looked_at(index, mail))]
        candidates = self._with_contacts(good)
        with self._inst.database.begin() as connection:
            self._queue(connection, self._not_suppressed(connection, candidates))
        return [self._answers[index] for index in range(len(mails))]

    def _refuse(self, index: int, error: BadInput) -> None:
        code = None
        if isinstance(error, BadAddress):
            code = FailureCode.BAD_EMAIL_ADDRESS
        elif isinstance(error, BadContent):
            code = error.code
        self._answers[index] = Submitted(
            index=index, submission=Submission.REFUSED, code=code, reason=str(error)
        )

    def _looked_at(self, index: int, mail: SingleMail) -> tuple[int, Content, CheckedMail, datetime] | None:
        """The mail with its campaign, or None once its refusal is told."""
        try:
            found = checked(mail, self._now)
            content = self._content(mail.campaign)
            return index, content, found, moment_of(content.campaign, found.due_at)
        except BadInput as error:
            self._refuse(index, error)
            return None

    def _content(self, named: str | Path) -> Content:
        if named not in self._contents:
            try:
                self._contents[named] = load_content(self._inst, named, self._now)
            except BadContent as error:
                self._contents[named] = error
        found = self._contents[named]
        if isinstance(found, BadContent):
            raise found
        return found

    def _with_contacts(self, mails: Sequence[tuple[int, Content, CheckedMail, datetime]]) -> list[_Candidate]:
        # In a transaction of its own: it may wait for an import, and nobody shall wait for it meanwhile.
        with self._inst.database.begin() as connection:
            by_key = ensure_contacts(
                connection,
                self._inst.installation_id,
                [each.address for _, _, each, _ in mails if each.address],
            )
            numbers = {each.contact_id for _, _, each, _ in mails if each.contact_id is not None}
            by_number = contacts_by_number(connection, self._inst.installation_id, numbers)
        candidates = []
        for index, content, each, due_at in mails:
            try:
                if each.address is not None:
                    contact = replace(by_key[address_key(each.address)], address=each.address)
                elif each.contact_id in by_number:
                    contact = by_number[each.contact_id]
                else:
                    raise Refused(f"to: there is no contact {each.contact_id} in this installation")
                refuse_stranger_to_test(content.campaign, contact.address)
            except BadInput as error:
                self._refuse(index, error)
                continue
            candidates.append(_Candidate(index, content, each, due_at, contact))
        return candidates

    def _not_suppressed(self, connection: Connection, mails: Sequence[_Candidate]) -> list[_Candidate]:
        """Those whose contacts may be written to. What happens after this is seen when they are sent."""
        suppressed = suppressions_of(connection, {each.contact.contact_id for each in mails})
        passed = []
        for each in mails:
            definition = each.campaign.definition
            reason = why_suppressed(
                suppressed.get(each.contact.contact_id, {}),
                topic=definition.topic or "",
                is_transactional=definition.transactional,
            )
            if reason is None:
                passed.append(each)
            else:
                self._answers[each.index] = Submitted(
                    index=each.index, submission=Submission.SUPPRESSED, reason=reason
                )
        return passed

    def _queue(self, connection: Connection, mails: Sequence[_Candidate]) -> None:
        by_campaign: dict[str, list[_Candidate]] = defaultdict(list)
        for each in mails:
            by_campaign[each.campaign.digest].append(each)
        contents = {
            digest: content
            for digest, found in sorted(
                by_campaign.items(), key=lambda item: item[1][0].campaign.definition.name
            )
            if (content := self._frozen(connection, found)) is not None
        }
        for digest, new in self._new(connection, by_campaign, contents).items():
            rows = [self._row(each, contents[digest].campaign_id) for each in new]
            taken = queue_single_mails(
                connection, self._inst.installation_id, contents[digest], rows, now=self._now
            )
            for each, (loose_mail_id, state) in zip(new, taken, strict=True):
                self._answers[each.index] = Submitted(
                    index=each.index,
                    submission=_SUBMISSIONS[state],
                    loose_mail_id=loose_mail_id,
                    due_at=each.due_at,
                )

    def _frozen(self, connection: Connection, mails: Sequence[_Candidate]) -> SingleMailContent | None:
        """What the mails share; None once it is told that their campaign is deleted."""
        try:
            return freeze_content(connection, self._inst, mails[0].content, self._now)
        except Refused as error:
            for each in mails:
                self._refuse(each.index, error)
            return None

    def _new(
        self,
        connection: Connection,
        by_campaign: dict[str, list[_Candidate]],
        contents: dict[str, SingleMailContent],
    ) -> dict[str, list[_Candidate]]:
        """By campaign those that were not queued within the history. One call for all: it locks in order."""
        asked = [
            (digest, each, _queued(each, content.campaign_id))
            for digest, content in contents.items()
            for each in by_campaign[digest]
            if each.is_remembered
        ]
        history = self._inst.settings.retention.history
        answers = remember(
            connection,
            self._inst.installation_id,
            [queued for _, _, queued in asked],
            history=history,
            now=self._now,
        )
        repeated = [each for each, is_new in zip(asked, answers, strict=True) if not is_new]
        before = queued_at(
            connection,
            self._inst.installation_id,
            [queued for _, _, queued in repeated],
            history=history,
            now=self._now,
        )
        for (_, each, _), moment in zip(repeated, before, strict=True):
            self._answers[each.index] = Submitted(
                index=each.index, submission=Submission.DUPLICATE, queued_at=moment, reason=_DUPLICATE
            )
        new: dict[str, list[_Candidate]] = {
            digest: [each for each in by_campaign[digest] if not each.is_remembered] for digest in contents
        }
        for (digest, each, _), is_new in zip(asked, answers, strict=True):
            if is_new:
                new[digest].append(each)
        return {digest: found for digest, found in new.items() if found}

    def _row(self, mail: _Candidate, campaign_id: int) -> SingleMailRow:
        definition, priority = mail.campaign.definition, mail.checked.priority
        queued = _queued(mail, campaign_id)
        return SingleMailRow(
            contact_id=mail.contact.contact_id,
            address=mail.contact.address,
            attributes=mail.checked.attributes,
            occurrence=mail.checked.occurrence,
            history_key=history_key(self._inst.installation_id, queued) if mail.is_remembered else None,
            priority=definition.priority if priority is None else priority,
            due_at=mail.due_at,
        )


_DUPLICATE = "the same was submitted before; another occurrence makes it another mail"


def _queued(mail: _Candidate, campaign_id: int) -> QueuedMail:
    said = f"{mail.campaign.digest}\0{mail.checked.attributes}"
    return QueuedMail(
        campaign_id=campaign_id,
        occurrence=mail.checked.occurrence,
        address_key=mail.contact.address_key,
        content_digest=hashlib.sha256(said.encode("utf-8")).digest(),
    )

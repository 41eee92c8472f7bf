"""Single mails that failed: grouped by what they were to say and why, resubmitted, deleted (spec 7.3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import Connection

from mail_orchestration.dispatch.dead_letters import (
    Chosen,
    Resubmitted,
    delete_loose_mails,
    resubmit_loose_mails,
)
from mail_orchestration.dispatch.single_mails import (
    EndedSingleMail,
    FailureGroup,
    NotComposed,
    failure_groups,
    freeze_anew,
    lock_not_composed,
    read_single_mail,
)
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.database_clock import database_now
from mail_orchestration.kernel.errors import BadInput, NotFound
from mail_orchestration.kernel.loose_mail_states import AT_REST, LooseMailKind
from mail_orchestration.single_mailer.checking import Refused
from mail_orchestration.single_mailer.contents import freeze_content, load_content


def failures(inst: Installation, *, campaign: str | None = None) -> list[FailureGroup]:
    """What failed, by campaign and code, the largest groups first. Raises NotFound for an unknown campaign."""
    with inst.database.begin() as connection:
        return failure_groups(connection, inst.installation_id, campaign=campaign)


def resubmit(inst: Installation, chosen: Chosen, *, as_frozen: bool = False) -> Resubmitted:
    """Let single mails that are FAILED or STOPPED be sent after all, at their moment or at once.

    One that was composed is sent as it is. One that never was says what its campaign says now, since what failed of
    what was frozen would only fail again; with `as_frozen` it says what it said. Those of a deleted campaign stay as
    they are, and so do those of which another mail says the same and was queued since, within the history (spec 6.6).
    Raises BadInput, and changes nothing, when a campaign cannot be sent as it is now.
    """
    chosen = replace(chosen, kind=LooseMailKind.SINGLE)
    with inst.database.begin() as connection:
        now = database_now(connection)
        if not as_frozen:
            _freeze_anew(connection, inst, chosen, now)
        return resubmit_loose_mails(
            connection, inst.installation_id, chosen, history=inst.settings.retention.history, now=now
        )


def delete(inst: Installation, chosen: Chosen, *, by: str) -> list[int]:
    """Give single mails up that are FAILED or STOPPED: they move to the delivery log. Returns their numbers.

    Whoever submits the same once more has it queued: it never left (spec 6.6).
    """
    chosen = replace(chosen, kind=LooseMailKind.SINGLE)
    with inst.database.begin() as connection:
        return delete_loose_mails(
            connection, inst.installation_id, chosen, by=by, now=database_now(connection)
        )


def why_left(
    inst: Installation, chosen: Chosen, done: Collection[int], repeats: Mapping[int, datetime] | None = None
) -> dict[int, str]:
    """Of each number that was chosen, and neither resubmitted nor deleted: why it was left as it is.

    `repeats` are those of a resubmit.
    """
    left = sorted(set(chosen.loose_mail_ids or ()) - set(done))
    with inst.database.begin() as connection:
        return {number: _why_left(connection, inst, chosen, number, repeats or {}) for number in left}


def _why_left(
    connection: Connection,
    inst: Installation,
    chosen: Chosen,
    number: int,
    repeats: Mapping[int, datetime],
) -> str:
    try:
        found = read_single_mail(connection, inst.installation_id, number)
    except NotFound as error:
        return str(error)
    if isinstance(found, EndedSingleMail):
        return f"it has ended, {found.outcome}"
    if found.state not in AT_REST:
        return f"it is {found.state}"
    if chosen.campaign not in (None, found.campaign):
        return f"it is of campaign {found.campaign}"
    if chosen.code not in (None, found.code):
        return f"it did not fail for {chosen.code}"
    if number in repeats:
        return f"the same was queued by another mail, {repeats[number].astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"campaign {found.campaign} is deleted; it goes when that is back"


def _freeze_anew(connection: Connection, inst: Installation, chosen: Chosen, now: datetime) -> None:
    by_campaign: dict[str, list[NotComposed]] = defaultdict(list)
    for mail in lock_not_composed(connection, inst.installation_id, chosen):
        by_campaign[mail.campaign].append(mail)
    for name, mails in sorted(by_campaign.items()):
        folder = inst.settings.folder / (mails[0].folder or name)
        try:
            content = load_content(inst, folder, now)
            if (found := content.campaign.definition.name) != name:
                raise Refused(f"{folder} is campaign {found} now")
            frozen = freeze_content(connection, inst, content, now)
        except Refused as error:
            raise BadInput(
                f"campaign {name} has mails that were never composed ({len(mails)}), "
                f"and what it says now does not do: {error}"
            ) from None
        freeze_anew(connection, [mail.loose_mail_id for mail in mails], frozen)

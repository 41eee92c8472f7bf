"""What the commands of `frequency` show: tables for people, and documents where records are not enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mail_orchestration.cli.face import escaped, shown, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mail_orchestration.dispatch.held_mail_lists import HeldCount
    from mail_orchestration.frequency.releasing import Released
    from mail_orchestration.frequency.showing import Overview
    from mail_orchestration.frequency.why import WaitingMail, Why


def show_overview(console: Console, found: Overview) -> None:
    """The policy with its figures."""
    in_force = found.shown.in_force
    if in_force is None:
        console.print(
            "No frequency policy holds: everybody is written to as often as campaigns are released."
        )
    else:
        policy = in_force.policy
        console.print(f"[bold]{found.shown.in_words}[/], since {shown(in_force.applied_at)}")
        what = f"waits, for {policy.shelf_life_days} days at most" if policy.hold else "is discarded"
        uncounted = "" if policy.count else "; mails count only where their campaign says so"
        console.print(f"what they forbid {what}{uncounted}; counted for {in_force.counted_for}")
        rows = [
            (str(each.rule), each.at_limit, f"{each.at_limit / each.contacts:.1%}" if each.contacts else "")
            for each in found.rules
        ]
        console.print(table("rule", "contacts at its limit", "of all counted", rows=rows))
    if found.shown.difference:
        console.print(f"[yellow]note[/] {escaped(found.shown.difference)}")
    _show_counts(console, found.held)
    if found.ended:
        ended = ", ".join(f"{shown(mails)} {ending}" for ending, mails in found.ended.items())
        console.print(f"waits that ended in the last seven days: {ended.replace('_', ' ')}")


def _show_counts(console: Console, held: Sequence[HeldCount]) -> None:
    if not held:
        console.print("Nothing waits in the frequency queue.")
        return
    heads = ("campaign", "held by", "mails", "since", "first expires")
    rows = [
        (each.campaign, str(each.held_by), each.mails, each.held_since, each.first_expires_at)
        for each in held
    ]
    console.print(table(*heads, rows=rows))


def show_queue(
    console: Console, counted: Sequence[HeldCount], listed: Sequence[WaitingMail], *, limit: int
) -> None:
    """What waits: counts if there are any, and each mail."""
    if not listed:
        console.print("Nothing waits in the frequency queue.")
        return
    if counted:
        _show_counts(console, counted)
    heads = (
        "number",
        "campaign",
        "mail job",
        "address",
        "priority",
        "held",
        "by",
        "may go",
        "expires",
        "note",
    )
    console.print(table(*heads, rows=[_row(each, with_address=True) for each in listed]))
    if len(listed) == limit:
        console.print(f"The first {shown(limit)}; --limit shows more.")


def _row(each: WaitingMail, *, with_address: bool) -> list[object]:
    mail = each.mail
    return [
        str(mail.held_mail_id),
        mail.campaign,
        str(mail.mail_job_id),
        *([mail.address] if with_address else []),
        str(mail.priority),
        mail.held_at,
        str(mail.held_by),
        "" if each.free_on is None else str(each.free_on),
        mail.expires_at,
        _note(each),
    ]


def _note(each: WaitingMail) -> str:
    notes = [each.waits_for, "expires before it may go" if each.expires_first else ""]
    if each.forbidden_by is None and each.free_on is not None and not each.waits_for and not each.mail.ahead:
        notes.append("goes with the next rescan")
    if each.mail.ahead:
        notes.append(f"{each.mail.ahead} ahead of it")
    return "; ".join(note for note in notes if note)


def show_why(console: Console, found: Why) -> None:
    """What counts for a contact, what waits, and what did."""
    console.print(f"[bold]{escaped(found.address)}[/], contact {found.contact_id}, on {found.today}")
    if found.in_force is None:
        console.print("No frequency policy holds: nothing is held.")
    rows = [
        (str(each.rule), f"{each.counted} of {each.rule.max_mails}", "reached" if each.is_reached else "")
        for each in found.rules
    ]
    if rows:
        console.print(table("rule", "counted", "", rows=rows))
    counted: list[tuple[object, ...]] = [
        (str(day), mails, "accepted") for day, mails in sorted(found.by_day.items())
    ]
    counted += [
        (
            f"{each.released_at:%Y-%m-%d}",
            1,
            f"{each.outcome or 'on its way'}: mail job {each.mail_job_id} of campaign {each.campaign}",
        )
        for each in found.places
    ]
    if counted:
        console.print(table("day", "mails", "", rows=counted))
    elif found.in_force is not None:
        console.print("Nothing counts.")
    if found.waiting:
        heads = ("number", "campaign", "mail job", "priority", "held", "by", "may go", "expires", "note")
        console.print(
            table(*heads, rows=[_row(each, with_address=False) for each in found.waiting], title="Held")
        )
    else:
        console.print("Nothing waits.")
    if found.past:
        heads = ("number", "campaign", "mail job", "held", "by", "ended", "as", "in mail job", "by whom")
        past = [
            (
                str(each.held_mail_id),
                each.campaign,
                str(each.mail_job_id),
                each.held_at,
                str(each.held_by),
                each.ended_at,
                each.ending.value.replace("_", " "),
                str(each.later_mail_job_id or ""),
                each.ended_by,
            )
            for each in found.past
        ]
        console.print(table(*heads, rows=past, title="Held before"))


def why_document(found: Why) -> dict[str, Any]:
    """The same as a document."""
    return {
        "contact_id": found.contact_id,
        "address": found.address,
        "today": found.today,
        "in_force": found.in_force,
        "rules": [
            {"rule": each.rule, "counted": each.counted, "is_reached": each.is_reached}
            for each in found.rules
        ],
        "by_day": {str(day): mails for day, mails in sorted(found.by_day.items())},
        "places": found.places,
        "held": found.waiting,
        "held_before": found.past,
    }


def show_released(console: Console, released: Released) -> None:
    """What was let go, what ended otherwise, and what waits still."""
    if released.later:
        heads = ("mail job", "sends what was held in", "campaign", "mails", "suppressed since")
        rows = [
            (str(each.mail_job_id), str(each.held_from), each.campaign, each.mails, each.suppressed)
            for each in released.later
        ]
        console.print(table(*heads, rows=rows))
        console.print(
            "Dagster's sensors carry them on; without them: mail-orchestration assemble, then queue"
        )
    else:
        console.print("No held mail may go.")
    for ending, mails in released.ended.items():
        console.print(f"{ending.value.replace('_', ' ')}: {shown(mails)}")
    console.print(f"still held: {shown(released.waiting)}")

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
    if in_force is None or found.contacts is None:
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
            for each in found.contacts.rules
        ]
        console.print(table("rule", "contacts at its limit", "of all counted", rows=rows))
        since = found.contacts.releases_since
        console.print(
            f"counted at {shown(found.contacts.counted_at)}"
            + (
                f"; {shown(since)} releases have taken places since: `mail-orchestration frequency rescan` counts anew"
                if since
                else ""
            )
        )
    for note in (found.shown.expires_first, found.shown.difference):
        if note:
            console.print(f"[yellow]note[/] {escaped(note)}")
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
    _show_waiting(console, listed, with_address=True)
    if len(listed) == limit:
        console.print(f"The first {shown(limit)}; --limit shows more.")


def _show_waiting(
    console: Console, listed: Sequence[WaitingMail], *, with_address: bool, title: str | None = None
) -> None:
    """A row for each mail; what is the same for all of them, and needs no saying, is left out."""
    rows = [
        {
            "number": str(each.mail.held_mail_id),
            "campaign": each.mail.campaign,
            "mail job": str(each.mail.mail_job_id),
            "address": each.mail.address if with_address else "",
            "priority": str(each.mail.priority or ""),
            "held": f"{each.mail.held_at:%Y-%m-%d %H:%M}",
            "by": str(each.mail.held_by),
            "may go": str(each.free_on or ""),
            "expires": f"{each.mail.expires_at:%Y-%m-%d %H:%M}",
            "note": _note(each),
        }
        for each in listed
    ]
    heads = [head for head in rows[0] if any(row[head] for row in rows)]
    console.print(table(*heads, rows=[[row[head] for head in heads] for row in rows], title=title))


def _note(each: WaitingMail) -> str:
    notes = [each.waits_for, "expires first" if each.expires_first else ""]
    if each.forbidden_by is None and each.free_on is not None and not each.waits_for and not each.mail.ahead:
        notes.append("may go: rescan")
    if each.mail.ahead:
        notes.append(f"{each.mail.ahead} ahead")
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
        _show_waiting(console, found.waiting, with_address=False, title="Held")
    else:
        console.print("Nothing waits.")
    if found.past:
        heads = ("number", "campaign", "mail job", "held", "by", "ended", "as", "in mail job", "by whom")
        past = [
            (
                str(each.held_mail_id),
                each.campaign,
                str(each.mail_job_id),
                f"{each.held_at:%Y-%m-%d %H:%M}",
                str(each.held_by),
                f"{each.ended_at:%Y-%m-%d %H:%M}",
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

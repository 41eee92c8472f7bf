"""How fast anything may be sent, and why: `throttle`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mail_orchestration.cli.app import command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped, table
from mail_orchestration.cli.mail_job_commands import PANEL
from mail_orchestration.cli.status_commands import show_holds

if TYPE_CHECKING:
    from rich.console import Console

    from mail_orchestration.throttling.showing import ThrottleShown


@command("throttle", PANEL)
def throttle(face: Face) -> ExitCode | None:
    """How fast each relay and recipient domain gets mail now: limits, what is used of them, and who asked for less."""
    from mail_orchestration.holding import why_closed, why_held
    from mail_orchestration.throttling.showing import throttles

    with face.open() as inst:
        found, closed, holds = throttles(inst), why_closed(inst), why_held(inst)

    def show(console: Console) -> None:
        show_holds(console, holds)
        if closed:
            console.print(f"[bold yellow]nothing is sent[/] {escaped(closed)}", highlight=False)
        heads = ("", "name", "now", "per second", "per minute", "per hour", "per day", "connections")
        console.print(table(*heads, rows=[_row(each) for each in found]))
        for each in found:
            for less in each.stricter:
                ours = f"{less.ours:,}" if less.ours else "unlimited"
                console.print(
                    f"[yellow]the stricter holds[/] {each.scope} {escaped(each.name)}: {less.limit} is "
                    f"{less.theirs:,} in installation {escaped(less.installation)}, here {ours}",
                    highlight=False,
                )
            if back_off := each.back_off:
                console.print(
                    f"[yellow]backing off[/] {each.scope} {escaped(each.name)} since "
                    f"{back_off.since:%Y-%m-%d %H:%M:%S}: {back_off.rate:.1f} of {back_off.full_rate:.1f} messages/s, "
                    f"free at {back_off.free_at:%H:%M:%S}; it said: {escaped(back_off.reason)}",
                    highlight=False,
                )

    face.answer({"throttles": found, "send_window": closed or "open", "holds": holds}, show)
    return None


def _row(each: ThrottleShown) -> list[object]:
    limits = each.limits
    day = _used(each.used_in_day, limits.per_day)
    return [
        each.scope,
        f"{each.name} ({', '.join(each.called)})"
        if each.called and each.called != (each.name,)
        else each.name,
        "at will" if each.rate is None else f"{each.rate:.1f}/s",
        limits.per_second or "",
        limits.per_minute or "",
        _used(each.used_in_hour, limits.per_hour),
        f"{day}, day {each.ramp_day} of the ramp" if each.ramp_day is not None and day else day,
        "" if each.connections is None else f"{each.connections_held} of {each.connections}",
    ]


def _used(used: int | None, limit: int) -> str:
    return "" if used is None else f"{used:,} of {limit:,}"

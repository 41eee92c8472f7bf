"""One mail to one address: `single-mail send|list|show`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mail_orchestration.cli.app import LARGEST_NUMBER, app, command
from mail_orchestration.cli.campaign_commands import CampaignArgument, campaign_folder, show_message
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, shown, table
from mail_orchestration.kernel.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from mail_orchestration.dispatch.single_mails import EndedSingleMail, SingleMailDetails
    from mail_orchestration.single_mailer import SingleMail, Submitted

PANEL = "Single mails"

single_mails = typer.Typer(help="One mail to one address, now or at a time.", no_args_is_help=True)
app.add_typer(single_mails, name="single-mail", rich_help_panel=PANEL)

NumberArgument = Annotated[
    int, typer.Argument(metavar="NUMBER", min=1, max=LARGEST_NUMBER, help="The number that send gave.")
]
CampaignOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Those of this campaign, by the name that its file says.")
]
TOLD = 20
"""So many mails that were not taken are shown one by one; `--json` tells of all."""


@command("send", PANEL, into=single_mails)
def send(
    face: Face,
    campaign: CampaignArgument,
    to: Annotated[str | None, typer.Argument(metavar="ADDRESS", help="Who gets it.")] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", "-a", metavar="NAME=VALUE", help="For the templates; may be repeated."),
    ] = None,
    attributes: Annotated[
        str | None, typer.Option(metavar="JSON", help="More of them, as an object.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before; ISO 8601 with its offset.")
    ] = None,
    occurrence: Annotated[
        str, typer.Option(help="What happened: for each occurrence the same mail goes once.")
    ] = "",
    priority: Annotated[
        int | None, typer.Option(min=-1000, max=1000, help="Instead of the campaign's own.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="A line of JSON for each mail, with the keys to, attributes, at …; - is stdin.",
        ),
    ] = None,
) -> ExitCode | None:
    """Submit one mail, or all of a file. A single mailer sends them.

    Exit code 1 when one was refused, or its contact is suppressed. A duplicate is well: the same was queued before.
    """
    from mail_orchestration.single_mailer import submit
    from mail_orchestration.single_mailer.reading import moment, read_mail, read_mails

    if (to is None) == (file is None):
        raise BadInput("give an address, or --file")
    with face.open() as inst:
        folder = campaign_folder(inst.settings, campaign)
        mails: Iterable[SingleMail]
        if file is None:
            document: dict[str, Any] = {"to": int(to) if to and to.isdecimal() else to}
            document["at"] = None if at is None else moment(at)
            document |= {"occurrence": occurrence, "priority": priority}
            mails = [
                read_mail(document | {"attributes": _attributes(attribute, attributes)}, campaign=folder)
            ]
            answers = submit(inst, mails)
        elif str(file) == "-":
            answers = submit(inst, read_mails(sys.stdin, campaign=folder, file="stdin"))
        else:
            with file.open(encoding="utf-8") as lines:
                answers = submit(inst, read_mails(lines, campaign=folder, file=str(file)))
    counts = Counter(answer.submission.value for answer in answers)
    face.answer({"counts": counts, "mails": answers}, lambda console: _show_answers(console, answers, counts))
    return None if all(answer.submission.is_well for answer in answers) else ExitCode.NOT_WELL


def _attributes(pairs: list[str] | None, document: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if document is not None:
        try:
            found = json.loads(document)
        except ValueError:
            raise BadInput("--attributes is no JSON") from None
        if not isinstance(found, dict):
            raise BadInput("--attributes is no JSON object")
    for pair in pairs or ():
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise BadInput("--attribute must be NAME=VALUE")
        found[name] = value
    return found


def _duplicates(those: list[Submitted]) -> str:
    moments = [each.queued_at for each in those if each.queued_at is not None]
    last = f", last at {shown(max(moments))}" if moments else ""
    whose = "It was queued before" if len(those) == 1 else f"{len(those):,} were queued before"
    return (
        f"{whose}{last}: nothing is lost, and nothing is sent twice. Another --occurrence makes another mail."
    )


def _show_answers(console: Console, answers: list[Submitted], counts: Counter[str]) -> None:
    from mail_orchestration.single_mailer import Submission

    if len(answers) > 1:
        console.print(", ".join(f"{number:,} {name}" for name, number in counts.most_common()))
    duplicates = [each for each in answers if each.submission is Submission.DUPLICATE]
    if duplicates:
        console.print(_duplicates(duplicates))
    told = answers if len(answers) == 1 else [each for each in answers if not each.submission.is_taken]
    told = [each for each in told if each.submission is not Submission.DUPLICATE]
    rows = [
        (
            str(each.index + 1),
            each.submission.value,
            str(each.loose_mail_id or ""),
            each.due_at,
            each.code.label if each.code else "",
            each.reason,
        )
        for each in told[:TOLD]
    ]
    if rows:
        console.print(table("mail", "", "number", "due", "code", "reason", rows=rows))
    if rest := len(told) - len(rows):
        console.print(f"and {rest:,} more that were not taken; --json tells of each")


@command("list", PANEL, into=single_mails)
def list_(
    face: Face,
    state: Annotated[
        list[str] | None, typer.Option(help="Only those in this state; may be repeated.")
    ] = None,
    campaign: CampaignOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 100,
) -> ExitCode | None:
    """Single mails that have not come to their end, in the order in which they go; what has, delivery-log tells."""
    from mail_orchestration.kernel.loose_mail_states import LooseMailState
    from mail_orchestration.single_mailer.showing import single_mails

    known = {each.value for each in LooseMailState}
    if unknown := [each for each in state or () if each.upper() not in known]:
        raise BadInput(f"there is no state {unknown[0]} (there are: {', '.join(sorted(known))})")
    wanted = [LooseMailState(each.upper()) for each in state] if state else None
    with face.open() as inst:
        found = single_mails(inst, states=wanted, campaign=campaign, most=limit)
    rows = [
        (
            str(each.loose_mail_id),
            each.state.value,
            each.campaign,
            each.address,
            each.goes_at,
            each.attempts,
            each.code or "",
        )
        for each in found
    ]
    heads = ("number", "state", "campaign", "address", "due", "attempts", "code")
    face.answer(
        {"single_mails": found},
        lambda console: console.print(table(*heads, rows=rows) if rows else "No single mail is there."),
    )
    return None


@command("show", PANEL, into=single_mails)
def show(
    face: Face,
    number: NumberArgument,
    raw: Annotated[bool, typer.Option("--raw", help="The message's own octets on stdout.")] = False,
) -> ExitCode | None:
    """One single mail: where it stands, or how it ended, why, and what it says. Exit code 1 when it has failed."""
    import base64
    import dataclasses

    from mail_orchestration.dispatch.single_mails import EndedSingleMail, SingleMailDetails
    from mail_orchestration.kernel.loose_mail_states import AT_REST, LooseMailState
    from mail_orchestration.single_mailer.showing import single_mail

    with face.open() as inst:
        found, data = single_mail(inst, number)
        missing = _why_no_message(found, inst.settings.retention.messages_days)
    if raw and not face.as_json:
        if data is None:
            raise BadInput(f"single mail {number}: {missing}")
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return None
    facts = {key: value for key, value in dataclasses.asdict(found).items() if key != "message"}
    if isinstance(found, EndedSingleMail):
        facts |= {"is_message_dropped": found.is_message_dropped}

    def tell(console: Console) -> None:
        rests = isinstance(found, SingleMailDetails) and found.state in AT_REST
        left_out = {"due_at"} if rests else set()
        rows = [
            (key, str(value))
            for key, value in facts.items()
            if value not in (None, "", {}) and key not in left_out
        ]
        console.print(table("", "", rows=rows))
        if data is None:
            console.print(missing)
        else:
            show_message(console, data, lines=20)

    face.answer(facts | {"data_base64": None if data is None else base64.b64encode(data).decode()}, tell)
    has_failed = isinstance(found, SingleMailDetails) and found.state is LooseMailState.FAILED
    return ExitCode.NOT_WELL if has_failed else None


def _why_no_message(found: SingleMailDetails | EndedSingleMail, kept_days: int) -> str:
    from mail_orchestration.dispatch.single_mails import EndedSingleMail
    from mail_orchestration.kernel.loose_mail_states import LooseMailState

    if not isinstance(found, EndedSingleMail):
        return "it was never composed" if found.state is LooseMailState.FAILED else "it is not composed yet"
    if found.is_message_dropped:
        return (
            f"its message ({shown(found.size)} octets) was dropped: messages are kept for {kept_days} days "
            "(retention.messages_days)"
        )
    return "it was never composed"

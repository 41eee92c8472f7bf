"""A campaign before it is released: `check`, `preview`, `test-send`."""

from __future__ import annotations

import email
import email.policy
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mail_orchestration.cli.app import command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped, shown, table
from mail_orchestration.kernel.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mail_orchestration.kernel.settings import Settings

PANEL = "Campaigns"

CampaignArgument = Annotated[
    str, typer.Argument(metavar="CAMPAIGN", help="The campaign's folder, or its name under campaigns_dir.")
]


def campaign_folder(settings: Settings | None, name: str) -> Path:
    """The folder that `name` means: a folder as such, else one under campaigns_dir. Raises NotFound."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if settings is not None and len(folder.parts) == 1 and (found := settings.campaigns_dir / name).is_dir():
        return found
    where = f" nor {settings.campaigns_dir / name}" if settings is not None else ""
    raise NotFound(f"there is no campaign {name}: neither a folder {folder.absolute()}{where}")


@command("check", PANEL)
def check_(face: Face, campaign: CampaignArgument) -> ExitCode | None:
    """Say what is wrong with a campaign, without a database and without sending. Exit code 1 with errors."""
    from mail_orchestration.composition.checking import check
    from mail_orchestration.composition.definition import load_campaign

    settings = _settings(face, is_needed=not Path(campaign).is_dir())
    folder = campaign_folder(settings, campaign)
    loaded = load_campaign(folder)
    findings = check(loaded, settings=settings)
    errors = sum(finding.severity == "error" for finding in findings)
    document = {
        "campaign": loaded.definition.name,
        "folder": folder,
        "errors": errors,
        "warnings": len(findings) - errors,
        "findings": findings,
    }

    def show(console: Console) -> None:
        _show_findings(console, findings)
        verdict = f"[red]{errors} errors[/]" if errors else "[green]no error[/]"
        console.print(f"{loaded.definition.name}: {verdict}, {len(findings) - errors} warnings")

    face.answer(document, show)
    return ExitCode.NOT_WELL if errors else None


def _settings(face: Face, *, is_needed: bool) -> Settings | None:
    """The settings. None where there is no such file, and it was neither named nor is needed."""
    from mail_orchestration.kernel.settings import load_settings, settings_path

    is_named = face.settings_path is not None
    if not is_needed and not is_named and not settings_path().is_file():
        return None
    return load_settings(face.settings_path)


def _show_findings(console: Console, findings: Sequence[Any]) -> None:
    if findings:
        rows = [
            (each.severity, f"{each.file}:{each.line}" if each.line else each.file, each.message)
            for each in findings
        ]
        console.print(table("", "where", "finding", rows=rows))


@command("preview", PANEL)
def preview(
    face: Face,
    campaign: CampaignArgument,
    address: Annotated[
        str | None, typer.Option("--address", "-a", help="As this contact gets it; none: the sample contact.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The message's own octets on stdout.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the HTML body to this file.")] = None,
    text: Annotated[Path | None, typer.Option(help="Write the text body to this file.")] = None,
) -> ExitCode | None:
    """Compose a campaign's message for one contact, and show it. Nothing is stored or sent."""
    from mail_orchestration.preview import preview_message

    with face.open() as inst:
        folder = campaign_folder(inst.settings, campaign)
        made = preview_message(inst, folder, address=address)
    message = email.message_from_bytes(made.data, policy=email.policy.default)
    bodies = {kind: _body(message, kind) for kind in ("html", "plain")}
    written = []
    for file, body in ((html, bodies["html"]), (text, bodies["plain"])):
        if file is not None:
            if body is None:
                raise NotFound(f"the message has no such body to write to {file}")
            file.write_text(body, encoding="utf-8")
            written.append(file)
    if raw and not face.as_json:
        sys.stdout.buffer.write(made.data)
        return None
    document = {
        "subject": made.subject,
        "size": made.size,
        "header_fields": [[name, str(value)] for name, value in message.items()],
        "text": bodies["plain"],
        "html": bodies["html"],
        "findings": made.findings,
        "written": written,
    }

    def show(console: Console) -> None:
        show_message(console, made.data)
        _show_findings(console, made.findings)
        for file in written:
            console.print(f"[green]written[/] {escaped(file)}")

    face.answer(document, show)
    return None


def show_message(console: Console, data: bytes, *, lines: int | None = None) -> None:
    """A message's header fields and the first `lines` of its text, framed; then what is attached."""
    from rich.panel import Panel
    from rich.text import Text

    message = email.message_from_bytes(data, policy=email.policy.default)
    content = Text()
    for name in ("From", "To", "Subject", "Date", "Message-ID", "List-Unsubscribe", "List-Unsubscribe-Post"):
        if name in message:
            content.append(f"{name}: ", style="bold").append(f"{message[name]}\n")
    body = (_body(message, "plain") or "").replace("\r", "").strip().splitlines()
    content.append("\n" + "\n".join(body[:lines]))
    if lines is not None and len(body) > lines:
        content.append(f"\n… {len(body) - lines} more lines", style="dim")
    parts = [
        f"{part.get_content_type()} {part.get_filename() or ''}".strip()
        for part in message.walk()
        if not part.is_multipart()
    ]
    console.print(
        Panel(content, subtitle=f"{', '.join(parts)} · {shown(len(data))} octets", subtitle_align="left")
    )


def _body(message: EmailMessage, kind: str) -> str | None:
    part = message.get_body(preferencelist=(kind,))
    return None if part is None else str(part.get_content())


@command("test-send", PANEL)
def test_send(
    face: Face,
    campaign: CampaignArgument,
    addresses: Annotated[list[str], typer.Argument(metavar="ADDRESS...", help="Who gets it.")],
) -> ExitCode | None:
    """Send a campaign's message to some addresses now. It makes no mail job and is not counted."""
    from mail_orchestration.kernel.attempts import Outcome
    from mail_orchestration.preview import test_send as send

    with face.open() as inst:
        results = send(inst, campaign_folder(inst.settings, campaign), addresses, now=inst.now())
    answers = [
        {
            "address": address,
            "outcome": each.outcome,
            "reply_code": each.reply_code,
            "enhanced_code": each.enhanced_code,
            "reply_text": each.reply_text,
            "relay": each.relay,
        }
        for address, each in zip(addresses, results, strict=True)
    ]
    rows = [[answer[key] for key in ("address", "outcome", "relay", "reply_text")] for answer in answers]
    face.answer(
        {"results": answers},
        lambda console: console.print(table("address", "outcome", "relay", "reply", rows=rows)),
    )
    return None if all(each.outcome is Outcome.ACCEPTED for each in results) else ExitCode.NOT_WELL

"""What one recipient of a mail job gets: `message`."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mail_orchestration.cli.app import command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped, shown
from mail_orchestration.cli.mail_job_commands import PANEL, MailJobArgument, read_tree
from mail_orchestration.kernel.errors import NotFound

if TYPE_CHECKING:
    from mail_orchestration.installation import Installation

LARGEST_MESSAGE_NUMBER = 2**31 - 1


@command("message", PANEL)
def message(
    face: Face,
    mail_job: MailJobArgument,
    who: Annotated[
        str,
        typer.Argument(metavar="ADDRESS|NUMBER", help="The recipient's address, or the message's number."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to this file.")] = None,
) -> ExitCode | None:
    """The exact octets of the message that one recipient of a mail job gets, or got."""
    from mail_orchestration.kernel.clock import utc_now

    with face.open() as inst:
        stored, data = read_exact_message(inst, mail_job, who)
    if output is not None:
        output.write_bytes(data)
    if not face.as_json:
        if output is None:
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
        else:
            face.console.print(f"[green]written[/] {escaped(output)}: {shown(len(data))} octets")
        return None
    document = {
        "mail_job_id": mail_job,
        "message_no": stored.message_no,
        "recipient_no": stored.recipient_no,
        "address": stored.address,
        "size": len(data),
        "read_at": utc_now(),
        "output": output,
        "data_base64": base64.b64encode(data).decode() if output is None else None,
    }
    face.answer(document, lambda console: None)
    return None


def read_exact_message(inst: Installation, mail_job: int, who: str) -> tuple[Any, bytes]:
    """A stored message by its number or its recipient's address, and its octets. Raises NotFound.

    `mail_job` may be a child: its messages are those of its release.
    """
    from mail_orchestration.composition.compression import Compressor
    from mail_orchestration.dispatch.message_store import read_message
    from mail_orchestration.kernel.addresses import normalise_address

    found, _ = read_tree(inst, mail_job)
    by: dict[str, Any]
    if who.isdecimal():
        if int(who) > LARGEST_MESSAGE_NUMBER:
            raise NotFound(f"mail job {mail_job} has no message of that number")
        by = {"message_no": int(who)}
    else:
        by = {"address": normalise_address(who)}
    with inst.database.begin() as connection:
        stored = read_message(connection, found.release_id, **by)
    data, _ = Compressor(stored.dictionary or b"").read(stored.block, stored.place_in_block)
    return stored, data

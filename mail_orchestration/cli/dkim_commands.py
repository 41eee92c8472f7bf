"""Keys that sign mail, and their records in DNS: `dkim-key`, `dkim-record`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mail_orchestration.cli.app import command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped
from mail_orchestration.cli.setup_commands import PANEL
from mail_orchestration.kernel.errors import BadInput, NotFound

if TYPE_CHECKING:
    from rich.console import Console

    from mail_orchestration.kernel.dkim_settings import DkimSettings

FOLDER = "dkim"
"""Beside the settings file: where `dkim-key` puts what it makes."""


@command("dkim-key", PANEL)
def dkim_key(
    face: Face,
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="Of the From address, or one above it.")],
    selector: Annotated[str, typer.Argument(metavar="SELECTOR", help="A name for this key, such as s2026a.")],
    algorithm: Annotated[
        Literal["rsa", "ed25519"], typer.Option(help="rsa (2048 bits) is what every receiver knows.")
    ] = "rsa",
    file: Annotated[
        Path | None,
        typer.Option(help="Where it goes; without it dkim/DOMAIN.SELECTOR.pem beside the settings."),
    ] = None,
) -> ExitCode | None:
    """Make a new private key, readable by its owner alone, and show the DNS record to publish. Overwrites nothing."""
    from mail_orchestration.kernel.dkim_keys import Algorithm, new_private_key
    from mail_orchestration.kernel.secret_files import create_secret_file
    from mail_orchestration.kernel.settings import settings_path

    settings_folder = settings_path(face.settings_path).parent
    named = Path(FOLDER) / f"{domain}.{selector}.pem".lower() if file is None else file.absolute()
    section = _section(domain, selector, settings_folder / named)
    assert section.key is not None
    try:
        is_new = create_secret_file(section.key, new_private_key(Algorithm(algorithm)))
    except OSError as error:
        raise BadInput(f"{section.key} cannot be written: {error.strerror}") from None
    if not is_new:
        raise BadInput(f"{section.key} exists already and is kept: take another selector for a new key")
    document = {"file": section.key, **_published(section)}

    def show(console: Console) -> None:
        console.print(f"[green]made[/] {escaped(section.key)}\n\nPublish in DNS:\n", soft_wrap=True)
        _show_record(console, document)
        console.print("\nand once it is there (`dig +short TXT` shows it), name the key in the settings:\n")
        lines = (
            "dkim:",
            f"  - domain: {section.domain}",
            f"    selector: {section.selector}",
            f"    key: {named}",
        )
        console.print(escaped("\n".join(lines)), soft_wrap=True)

    face.answer(document, show)
    return None


@command("dkim-record", PANEL)
def dkim_record(
    face: Face,
    domain: Annotated[
        str | None, typer.Argument(metavar="[DOMAIN]", help="Of this domain's keys alone.")
    ] = None,
    selector: Annotated[str | None, typer.Argument(metavar="[SELECTOR]", help="Of this key alone.")] = None,
) -> ExitCode | None:
    """Show the DNS records of the keys that the settings name, as zone files hold them."""
    from mail_orchestration.kernel.settings import load_settings

    sections = [
        each
        for each in load_settings(face.settings_path).dkim
        if (domain or each.domain).lower() == each.domain
        and (selector or each.selector).lower() == each.selector
    ]
    if not sections:
        of_whom = (
            "" if domain is None else f" for {domain}" + (f" with selector {selector}" if selector else "")
        )
        raise NotFound(f"dkim: the settings name no key{of_whom}")
    records = [_published(each) for each in sections]

    def show(console: Console) -> None:
        for record in records:
            _show_record(console, record)

    face.answer({"records": records}, show)
    return None


def _section(domain: str, selector: str, key: Path) -> DkimSettings:
    from pydantic import ValidationError

    from mail_orchestration.kernel.dkim_settings import DkimSettings

    try:
        return DkimSettings(domain=domain, selector=selector, key=key)
    except ValidationError as error:
        fault = error.errors()[0]
        where = f"{fault['loc'][0]}: ".upper() if fault["loc"] else ""
        raise BadInput(f"{where}{fault['msg'].removeprefix('Value error, ')}") from None


def _published(section: DkimSettings) -> dict[str, Any]:
    from mail_orchestration.kernel.dkim_keys import load_dkim_key

    key = load_dkim_key(section)
    return {
        "name": section.record_name,
        "type": "TXT",
        "value": key.record(),
        "strings": key.record_strings(),
        "algorithm": key.algorithm,
        "bits": key.bits,
    }


def _show_record(console: Console, record: dict[str, Any]) -> None:
    strings = " ".join(f'"{each}"' for each in record["strings"])
    console.print(escaped(f"{record['name']}. IN TXT ( {strings} )"), soft_wrap=True)

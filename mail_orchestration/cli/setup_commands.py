"""Bring an installation up: `init`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mail_orchestration.cli.app import command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, database_name, escaped

if TYPE_CHECKING:
    from rich.console import Console

PANEL = "Installation and audiences"


@command("init", PANEL)
def init(
    face: Face,
    folder: Annotated[Path, typer.Argument(help="Where the installation's files go.")] = Path(),
) -> ExitCode | None:
    """Make a commented settings file, a first campaign and audience, signing keys, and the database.

    What exists is kept, so it can be called again.
    """
    from mail_orchestration.cli.starter_files import FILES
    from mail_orchestration.installation import open_installation
    from mail_orchestration.kernel.settings import SETTINGS_FILE, load_settings
    from mail_orchestration.kernel.signing_secrets import SECRETS_FILE, SECRETS_VARIABLE, create_signing_keys

    settings_file = face.settings_path or folder / SETTINGS_FILE
    made: list[str] = []
    if not settings_file.exists():
        for name, text in FILES.items():
            file = settings_file if name == SETTINGS_FILE else settings_file.parent / name
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
                made.append(str(file))
    settings = load_settings(settings_file)
    keys_from_environment = _is_set(SECRETS_VARIABLE)
    key_file = settings.data_dir / SECRETS_FILE
    if not keys_from_environment and create_signing_keys(key_file):
        made.append(str(key_file))
    with open_installation(settings_file, application_name="mail-orchestration init") as inst:
        database = database_name(inst)
    document = {
        "settings": settings_file,
        "made": made,
        "signing_keys": f"${SECRETS_VARIABLE}" if keys_from_environment else key_file,
        "database": database,
        "embedded": settings.database_url is None,
    }

    def show(console: Console) -> None:
        for file in made:
            console.print(f"[green]made[/]  {escaped(file)}")
        if not made:
            console.print(f"{escaped(settings_file)} and the signing keys were there already and are kept.")
        console.print(f"[green]ready[/] {escaped(database)}")
        if made and not keys_from_environment:
            console.print(
                f"\nKeep [bold]{escaped(key_file)}[/]: links in mail that was sent are signed with it."
            )
        option = "" if settings_file == Path(SETTINGS_FILE) else f" --settings {escaped(settings_file)}"
        console.print(
            f"\nNext: mail-orchestration import{option}, then mail-orchestration check{option} welcome"
        )

    face.answer(document, show)
    return None


def _is_set(variable: str) -> bool:
    import os

    return bool(os.environ.get(variable))

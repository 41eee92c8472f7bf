"""Fill audiences and the suppression list: `import`, `import-rejects`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mail_orchestration.cli.app import LARGEST_NUMBER, command
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face, escaped, shown, table
from mail_orchestration.cli.setup_commands import PANEL
from mail_orchestration.kernel.errors import BadAudience, BadInput

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from rich.console import Console

    from mail_orchestration.audience.importing import ImportSummary
    from mail_orchestration.installation import Installation
    from mail_orchestration.kernel.settings import AudienceSettings

Kind = Literal["csv", "parquet", "direct-mailer"]
Mode = Literal["append", "replace"]
KIND_OF_SUFFIX: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "direct-mailer",
}


@command("import", PANEL)
def import_(
    face: Face,
    audience: Annotated[
        str | None,
        typer.Argument(help="The audience to fill; none: every one whose source is in the settings."),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read this file instead.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="What the file is; without it, by its name.")] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="append adds and refreshes, replace makes the audience what the file says."),
    ] = None,
    address_column: Annotated[str, typer.Option(help="The column with the address.")] = "email",
    encoding: Annotated[str, typer.Option(help="Of a CSV file or Direct Mailer list.")] = "utf-8",
    delimiter: Annotated[str, typer.Option(help="Of a CSV file.")] = ",",
    suppressions: Annotated[
        Path | None, typer.Option(help="Read a CSV file of addresses that nothing may be sent to.")
    ] = None,
    reason: Annotated[
        Literal["opted_out", "opted_out_of_topic", "hard_bounce", "complaint", "manual"],
        typer.Option(help="Why they are suppressed."),
    ] = "manual",
    topic: Annotated[str, typer.Option(help="The topic, for opted_out_of_topic.")] = "",
) -> ExitCode | None:
    """Fill audiences, or the suppression list. Bad rows are set aside with their reason and stop nothing."""
    if suppressions is not None:
        if audience or file:
            raise BadInput("--suppressions stands alone: the suppression list is no audience")
        _import_suppressions(face, suppressions, reason, topic, address_column, encoding, delimiter)
        return None
    if file is not None and audience is None:
        raise BadInput(
            "name the audience that the file fills: mail-orchestration import AUDIENCE --file FILE"
        )
    with face.open() as inst:
        if file is not None and audience is not None:
            described = [_described(audience, file, kind, mode, address_column, encoding, delimiter)]
        elif audience is not None:
            described = [inst.settings.audience(audience)]
        else:
            described = [each for each in inst.settings.audiences if each.has_source]
        if not described:
            raise BadAudience("the settings describe no audience with a source; name one with --file FILE")
        done = {each.name: _fill(face, inst, each, mode) for each in described}
    face.answer({"audiences": done}, lambda console: _show_imports(face, console, done))
    return None


def _described(
    name: str,
    file: Path,
    kind: Kind | None,
    mode: Mode | None,
    address_column: str,
    encoding: str,
    delimiter: str,
) -> AudienceSettings:
    from pydantic import ValidationError

    from mail_orchestration.kernel.settings import AudienceSettings

    if not file.is_file():
        raise BadAudience(f"there is no file {file}")
    known = kind or KIND_OF_SUFFIX.get(file.suffix.lower())
    if known is None:
        raise BadAudience(
            f"{file}: what this is does not follow from its name: say --kind csv, parquet or direct-mailer"
        )
    try:
        return AudienceSettings.model_validate(
            {
                "name": name,
                known.replace("-", "_"): file.absolute(),
                "mode": mode or "append",
                "address_column": address_column,
                "encoding": encoding,
                "delimiter": "\t" if file.suffix.lower() == ".tsv" else delimiter,
            }
        )
    except ValidationError as error:
        raise BadInput("\n".join(_told(fault) for fault in error.errors())) from None


def _told(fault: ErrorDetails) -> str:
    """What is wrong with an option, by the option's name."""
    key = str(fault["loc"][0]) if fault["loc"] else ""
    option = "AUDIENCE" if key == "name" else f"--{key.replace('_', '-')}"
    return f"{option}: {fault['msg'].removeprefix('Value error, ')}"


def _fill(face: Face, inst: Installation, described: AudienceSettings, mode: Mode | None) -> ImportSummary:
    from mail_orchestration.audience.described_source import source_of_settings
    from mail_orchestration.broadcast import fill_audience

    source = source_of_settings(described, own_url=inst.database.url)
    with face.progress(f"importing {described.name}") as progress:
        return fill_audience(
            inst,
            described.name,
            source=source,
            mode=mode or described.mode,
            now=inst.now(),
            progress=lambda rows: progress(rows, None),
        )


def _show_imports(face: Face, console: Console, done: dict[str, ImportSummary]) -> None:
    rows = [
        (name, each.rows_read, each.rows_accepted, each.rows_repeated, each.rows_rejected, each.members)
        for name, each in done.items()
    ]
    console.print(table("audience", "rows", "accepted", "repeated", "rejected", "members", rows=rows))
    reasons = [
        (name, reason, count)
        for name, each in done.items()
        for reason, count in sorted(each.by_reason.items())
    ]
    if reasons:
        console.print(table("audience", "rejected because", "rows", rows=reasons))
        option = "" if face.settings_path is None else f" --settings {face.settings_path}"
        for name in dict.fromkeys(name for name, _, _ in reasons):
            console.print(f"See them: mail-orchestration import-rejects{escaped(option)} {escaped(name)}")


@command("import-rejects", PANEL)
def import_rejects(
    face: Face,
    audience: Annotated[str, typer.Argument(help="The audience whose import it was.")],
    number: Annotated[
        int | None,
        typer.Option(
            "--import", metavar="N", min=1, max=LARGEST_NUMBER, help="That import; without it, the latest."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many rows.")] = 100,
) -> ExitCode | None:
    """The rows that an import set aside: line, value as it was found (which may hold an address), reason."""
    from mail_orchestration.audience.importing import done_import, rejects

    with face.open() as inst, inst.database.begin() as connection:
        done = done_import(connection, inst.installation_id, audience, number)
        found = rejects(connection, done.import_id, limit)
    document = {
        "audience": audience,
        "import_id": done.import_id,
        "source": done.source,
        "finished_at": done.finished_at,
        "rows_rejected": done.rows_rejected,
        "rejects": found,
    }

    def show(console: Console) -> None:
        console.print(
            f"import {done.import_id} of {escaped(audience)} from {escaped(done.source)}, {shown(done.finished_at)}: "
            f"{shown(done.rows_rejected)} rows were set aside"
        )
        if found:
            cells = [
                (str(each.line), _harmless(each.value), each.code, _harmless(each.detail)) for each in found
            ]
            console.print(table("line", "value", "reason", "detail", rows=cells))
        if len(found) < done.rows_rejected:
            console.print(f"{shown(done.rows_rejected - len(found))} more are not shown; see --limit")

    face.answer(document, show)
    return None


def _harmless(value: str) -> str:
    """What a source held, with whatever would end a line or command a terminal written out."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in value
    )


def _import_suppressions(
    face: Face, file: Path, reason: str, topic: str, address_column: str, encoding: str, delimiter: str
) -> None:
    from mail_orchestration.audience.described_source import source_of_settings
    from mail_orchestration.audience.suppressing import import_suppressions

    if (reason == "opted_out_of_topic") != bool(topic):
        raise BadInput("--topic goes with --reason opted_out_of_topic")
    described = _described("suppressions", file, "csv", None, address_column, encoding, delimiter)
    with face.open() as inst:
        source = source_of_settings(described, own_url=inst.database.url)
        done = import_suppressions(inst.database, inst.installation_id, source, reason, topic, now=inst.now())

    def show(console: Console) -> None:
        why = f"{reason} {topic}".strip()
        console.print(
            f"{shown(done.rows_suppressed)} addresses are suppressed now ({why}); "
            f"{shown(done.rows_already)} were before"
        )
        if done.rows_rejected:
            reasons = ", ".join(f"{count:,} {code}" for code, count in sorted(done.by_reason.items()))
            console.print(f"{shown(done.rows_rejected)} rows were no addresses: {reasons}")

    face.answer(done, show)

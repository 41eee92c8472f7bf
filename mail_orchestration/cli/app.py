"""The commands' frame: options that all of them have, errors as messages and exit codes, quick start-up.

Modules of commands import only the standard library, typer and the kernel's errors at their top; what a command
works with is imported when it runs.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from mail_orchestration.cli.exit_codes import ExitCode, exit_code_of, table
from mail_orchestration.cli.face import Face
from mail_orchestration.kernel.errors import BadInput, MailOrchestrationError

Arguments = ParamSpec("Arguments")

LARGEST_NUMBER = 2**63 - 1
"""Of a mail job: what the database can hold."""

app = typer.Typer(
    name="mail-orchestration",
    help="Bulk mail on Dagster and PostgreSQL: who receives it, what it says, what became of it.",
    epilog=f"Exit codes:\n{table()}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMON = {
    "as_json": Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")],
    "settings": Annotated[
        Path | None,
        typer.Option(
            "--settings",
            "-s",
            metavar="FILE",
            help="The settings file; without it $MAIL_ORCHESTRATION_SETTINGS, or ./mail_orchestration.yaml.",
        ),
    ],
    "debug": Annotated[bool, typer.Option("--debug", help="Show log lines, and a traceback with an error.")],
}
_COMMON_NAMES = {"--json", "--settings", "-s", "--debug"}


def command(
    name: str, panel: str, into: typer.Typer = app
) -> Callable[[Callable[Concatenate[Face, Arguments], ExitCode | None]], Callable[..., None]]:
    """Register a function as the command `name`; it gets a `Face` first and returns its exit code, or None for 0."""

    def register(function: Callable[Concatenate[Face, Arguments], ExitCode | None]) -> Callable[..., None]:
        call = _with_face(function)
        into.command(name, rich_help_panel=panel)(call)
        return call

    return register


def group(
    into: typer.Typer,
) -> Callable[[Callable[[Face], ExitCode | None]], Callable[..., None]]:
    """Register a function as what a group of commands does when none of them is named; else as `command`."""

    def register(function: Callable[[Face], ExitCode | None]) -> Callable[..., None]:
        def unless_named(face: Face, context: typer.Context) -> ExitCode | None:
            if context.invoked_subcommand is None:
                return function(face)
            if face != Face():
                raise BadInput(f"options go after the command: {context.invoked_subcommand} --json")
            return None

        unless_named.__doc__ = function.__doc__
        call = _with_face(unless_named, exits=False)
        into.callback(invoke_without_command=True)(call)
        return call

    return register


def _with_face(
    function: Callable[Concatenate[Face, Arguments], ExitCode | None], *, exits: bool = True
) -> Callable[..., None]:
    """`function` with the options of all commands; what it returns is the exit code."""

    @functools.wraps(function)
    def call(*, as_json: bool, settings: Path | None, debug: bool, **arguments: Any) -> None:
        code = function(Face(as_json=as_json, settings_path=settings), **arguments)  # type: ignore[call-arg]
        if exits or code:
            raise typer.Exit(code or ExitCode.OK)

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    defaults: dict[str, bool | None] = {"as_json": False, "settings": None, "debug": False}
    common = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=defaults[key], annotation=annotation)
        for key, annotation in _COMMON.items()
    ]
    parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own] + common
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {item.name: item.annotation for item in parameters}
    del call.__wrapped__
    return call


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(version_of("mail-orchestration"))
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. What is wrong is told on stderr, as JSON with `--json`."""
    options = arguments[: list(arguments).index("--")] if "--" in arguments else arguments
    as_json, debug = "--json" in options, "--debug" in options
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        return int(app(list(arguments), standalone_mode=False, prog_name="mail-orchestration") or ExitCode.OK)
    except MailOrchestrationError as error:
        return _tell(error, str(error), exit_code_of(error), as_json=as_json, debug=debug)
    except typer.TyperException as error:
        if not error.format_message():  # no command was named, and the help is shown
            return ExitCode.BAD_INPUT
        said = error.format_message()
        if (
            getattr(error, "option_name", None) in _COMMON_NAMES
        ):  # each command has them, but nothing before it
            said = "options go after the command: mail-orchestration COMMAND --json"
        return _tell(error, said, ExitCode.BAD_INPUT, as_json=as_json, debug=debug)
    except (KeyboardInterrupt, typer.Abort) as error:
        return _tell(error, "interrupted", ExitCode.INTERRUPTED, as_json=as_json, debug=False)
    except (BrokenPipeError, SystemExit):
        # Whoever read our output has gone, as `head` does; typer then exits. Nothing can be said any more, not even at
        # the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        is_ours_to_mend = isinstance(
            error, FileNotFoundError | FileExistsError | NotADirectoryError | PermissionError
        )
        code = ExitCode.BAD_INPUT if is_ours_to_mend else ExitCode.UNAVAILABLE
        return _tell(error, f"{place}{error.strerror or error}", code, as_json=as_json, debug=debug)
    except Exception as error:
        return _tell(error, f"{type(error).__name__}: {error}", ExitCode.DEFECT, as_json=as_json, debug=True)


def _tell(error: BaseException, message: str, code: ExitCode, *, as_json: bool, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if as_json:
        fault = {"error": type(error).__name__, "message": message, "exit_code": int(code)}
        sys.stderr.write(json.dumps(fault, ensure_ascii=False) + "\n")
    else:
        typer.secho("error", fg=typer.colors.RED, bold=True, err=True, nl=False)
        typer.echo(f" {message}", err=True)
    return int(code)

"""For any size, before there is a list: `simulate`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mail_orchestration.cli.app import command
from mail_orchestration.cli.campaign_commands import PANEL
from mail_orchestration.cli.exit_codes import ExitCode
from mail_orchestration.cli.face import Face
from mail_orchestration.kernel.errors import BadInput

if TYPE_CHECKING:
    from mail_orchestration.kernel.settings import Settings
    from mail_orchestration.simulation import Scenario

ShareOption = Annotated[float | None, typer.Option(min=0, max=1, help="Of attempts, from 0 to 1.")]


@command("simulate", PANEL)
def simulate_(
    face: Face,
    scenario: Annotated[
        Path | None, typer.Argument(help="A YAML file that says what differs from the settings.")
    ] = None,
    recipients: Annotated[
        str | None, typer.Option(help="How many; several sizes with commas: 10000,1000000,1000000000.")
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(help="Shares of recipient domains: gmail.com=0.4,outlook.com=0.2,*=0.4."),
    ] = None,
    rejected: ShareOption = None,
    deferred: ShareOption = None,
    deferred_again: ShareOption = None,
    begins_at: Annotated[
        str | None, typer.Option("--at", help="When it begins, such as 2026-11-27T08:00; now unless given.")
    ] = None,
    is_import: Annotated[
        bool, typer.Option("--import/--no-import", help="Whether a list is imported first.")
    ] = True,
    rates: Annotated[
        Path | None, typer.Option(help="What was measured; else simulation_rates.yaml in data_dir.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the queue's depth over time here.")] = None,
) -> ExitCode | None:
    """Reckon how long a release of any size takes, what limits it, what it costs. Sends nothing, needs no database.

    Exit code 1 when one of the sizes would not be through within a year.
    """
    from mail_orchestration.cli.simulate_tables import document_of, show_simulations, write_curves
    from mail_orchestration.kernel.clock import utc_now
    from mail_orchestration.simulation import simulate

    failures = {"rejected": rejected, "deferred": deferred, "deferred_again": deferred_again}
    given = {
        "recipients": recipients and _sizes(recipients),
        "mix": mix and _mix(mix),
        "failures": {key: value for key, value in failures.items() if value is not None},
        "begins_at": begins_at and _moment(begins_at),
        "audience": {} if is_import else {"imported": False},
    }
    found = _read(face, scenario, rates, {key: value for key, value in given.items() if value})
    if not found.recipients:
        raise BadInput("--recipients: how many? The scenario does not say")
    now = utc_now()
    simulations = [simulate(found, size, now=now) for size in found.recipients]
    if csv is not None:
        write_curves(csv, simulations)
    face.answer(
        [document_of(each) for each in simulations],
        lambda console: show_simulations(console, found, simulations),
    )
    return ExitCode.NOT_WELL if any(each.finish_s is None for each in simulations) else None


def _read(face: Face, file: Path | None, rates: Path | None, given: dict[str, Any]) -> Scenario:
    from mail_orchestration.simulation import read_scenario, scenario_of
    from mail_orchestration.simulation.rates import RATES_FILE, read_rates

    settings = _settings(face, is_needed=file is None)
    base: dict[str, Any] = {} if settings is None else scenario_of(settings)
    if rates is None and settings is not None and (measured := settings.data_dir / RATES_FILE).is_file():
        rates = measured
    if rates is not None:
        base["rates"] = read_rates(rates).model_dump(exclude_unset=True)
    return read_scenario(file, base=base, given=given)


def _settings(face: Face, *, is_needed: bool) -> Settings | None:
    """The installation's; None where a scenario stands for itself and there are none."""
    from mail_orchestration.kernel.settings import load_settings, settings_path

    if face.settings_path is None and not is_needed and not settings_path().is_file():
        return None
    return load_settings(face.settings_path)


def _sizes(value: str) -> list[int]:
    try:
        return [int(size.replace("_", "")) for size in value.split(",")]
    except ValueError:
        raise BadInput(f"--recipients: {value!r} is not whole numbers with commas between them") from None


def _mix(value: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in value.split(","):
        domain, sign, share = part.strip().rpartition("=")
        try:
            found.append({"domain": domain, "share": float(share)})
        except ValueError:
            sign = ""
        if not sign or not domain:
            raise BadInput(f"--mix: {part!r} is not DOMAIN=SHARE, such as gmail.com=0.4")
    return found


def _moment(value: str) -> str:
    try:
        return datetime.fromisoformat(value).isoformat()
    except ValueError:
        raise BadInput(f"--at: {value!r} is no moment such as 2026-11-27T08:00") from None

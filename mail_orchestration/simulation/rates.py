"""What each step takes for one message on one machine, as `python -m benchmarks.simulation` measures it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mail_orchestration.kernel.settings_section import Section
from mail_orchestration.kernel.yaml_document import read_yaml_file

RATES_FILE = "simulation_rates.yaml"
"""In the installation's data_dir: what was measured on its own machine."""


class Rates(Section):
    """Microseconds are of wall time for one row or message, where nothing else is said.

    The defaults were measured on a virtual machine of two cores that had nothing else to do.
    """

    import_seconds: float = Field(default=0.0172, ge=0)
    """Of an import however small; the same for the next ones."""
    import_microseconds: float = Field(default=11.7, ge=0)
    dedup_seconds: float = Field(default=0.0409, ge=0)
    dedup_microseconds: float = Field(default=4.07, ge=0)
    assembly_seconds: float = Field(default=2.31, ge=0)
    assembly_serial_microseconds: float = Field(default=40.7, ge=0)
    """Of the one process that reads recipients and writes messages."""
    assembly_microseconds: float = Field(default=227.0, ge=0)
    """Of one of the processes that compose them."""
    start_seconds: float = Field(default=1.15, ge=0)
    """From the queue to a mailcaster's first claim. Where Dagster's sensor starts it: 4 to 11 s more."""
    child_seconds: float = Field(default=0.0303, ge=0)
    """Of a mailcaster, between the last message of one child and the first of the next."""
    mailcaster_microseconds: float = Field(default=87.6, gt=0)
    """Of one mailcaster that waits for no relay."""
    mailcaster_cpu_microseconds: float = Field(default=57.7, gt=0)
    database_cpu_microseconds: float = Field(default=15.8, gt=0)
    """Of all processes of PostgreSQL, while messages are sent."""
    reply_milliseconds: float = Field(default=0.729, gt=0)
    """Of one connection, from message to message: the relay's replies, and the result's way to disk."""
    contact_octets: float = Field(default=343.0, ge=0)
    """That the database grows by, for each row imported; the next three for each recipient, message and result."""
    recipient_octets: float = Field(default=96.7, ge=0)
    message_octets: float = Field(default=329.0, ge=0)
    result_octets: float = Field(default=147.0, ge=0)


def read_rates(file: Path) -> Rates:
    """The rates that a file holds; what it does not name is as measured elsewhere. Raises BadInput."""
    return read_yaml_file(file, model=Rates)

"""How soon a single mail is accepted while a large mail job runs: both started by Dagster's sensor, one relay for both.

    python -m benchmarks.single_mails --contacts 100000 --every-s 0.5

A release of so many contacts is assembled and queued, then Dagster's daemon starts with deploy/dagster.yaml. From the
first result of the mail job until its last one a single mail is submitted every so many seconds. From submit to
accepted is told by the database's clock alone: from the row of the loose mail to that of the delivery log. The first
of them wait for Dagster to start the run, or for a mailcaster between two mail jobs. The bulk rate beside it is of
the same time.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from benchmarks.harness import command_line
from benchmarks.harness.daemon import daemon, is_so, wait_until
from benchmarks.harness.databases import own_folder
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.harness.postfix import sink
from benchmarks.harness.site import addresses, release, write_site
from mail_orchestration.installation import Installation, open_installation
from mail_orchestration.single_mailer import SingleMail, submit

PROMISED_S = 15.0
HAS_ENDED = "SELECT bool_and(ended_at IS NOT NULL) FROM mail_job WHERE parent_id IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    contacts: int = 100_000
    connections: int = 10
    every_s: float = 0.5
    """Between two single mails."""
    rounds: int = 3


def measure(sizes: Sizes) -> list[Measurement]:
    """Each round on an installation of its own."""
    runs: dict[str, list[float]] = defaultdict(list)
    for _ in range(sizes.rounds):
        with own_folder() as folder, sink() as port:
            for name, seconds in waits(folder, port, sizes).items():
                runs[name].append(seconds)
    return [
        Measurement(
            name=f"a single mail beside a mail job of {sizes.contacts:,}, from submit to accepted: {name}",
            unit="s",
            runs=tuple(seconds),
            reference="what is promised of p95",
            reference_runs=(PROMISED_S,),
            target=Target(at_most=1.0) if name == "p95" else None,
        )
        for name, seconds in runs.items()
    ]


def waits(folder: Path, port: int, sizes: Sizes) -> dict[str, float]:
    """Seconds that single mails of one round waited."""
    settings = write_site(folder, port, addresses(sizes.contacts), connections=sizes.connections)
    with open_installation(settings, application_name="benchmark") as inst:
        release(inst)
        with daemon(folder, settings, inst):
            wait_until(inst, "SELECT count(*) > 0 FROM result")
            submitted = 0
            while not submitted or not is_so(inst, HAS_ENDED):
                address, attributes = f"single{submitted}@example.net", {"order": submitted}
                submit(inst, SingleMail(campaign="notice", to=address, attributes=attributes))
                submitted += 1
                time.sleep(sizes.every_s)
            wait_until(inst, "SELECT count(*) = 0 FROM loose_mail")
        waited = accepted(inst)
    if len(waited) != submitted:
        raise SystemExit(f"{len(waited)} of {submitted} single mails were accepted")
    places = statistics.quantiles(waited, n=100, method="inclusive") if submitted > 1 else waited * 99
    return {
        "first": waited[0],
        "median": statistics.median(waited),
        "p95": places[94],
        "longest": max(waited),
    }


def accepted(inst: Installation) -> list[float]:
    """Seconds from the row of each loose mail to that of the delivery log."""
    with inst.database.begin() as connection:
        return list(
            connection.scalars(
                text(
                    "SELECT extract(epoch FROM ended_at - created_at)::float8 FROM delivery_log "
                    "WHERE outcome = 'accepted' ORDER BY loose_mail_id"
                )
            )
        )


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(contacts=2_000, rounds=1))

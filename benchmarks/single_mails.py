"""How soon a single mail is accepted while a large mail job runs: both started by Dagster's sensor, one relay for both.

    python -m benchmarks.single_mails --contacts 100000 --every 0.5

A release of so many contacts is assembled and queued, then Dagster's daemon starts with deploy/dagster.yaml. From the
first result of the mail job until its last one a single mail is submitted every so many seconds. From submit to
accepted is told by the database's clock alone: from the row of the loose mail to that of the delivery log. The first
of them wait for Dagster to start the run, or for a mailcaster between two mail jobs. The bulk rate beside it is of
the same time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import text

from benchmarks import delivery
from benchmarks.egress_only import start_sink

REPOSITORY = Path(__file__).parents[1]
PATIENCE_S = 900.0
NOTICE = {
    "name": "notice",
    "from": "Post Office <post@example.org>",
    "subject": "Your order {{ order }} has left",
    "transactional": True,
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--contacts", type=int, default=100_000)
    options.add_argument("--connections", type=int, default=10)
    options.add_argument("--every", type=float, default=0.5, help="seconds between two single mails")
    chosen = options.parse_args()
    os.environ.pop("DATABASE_URL", None)
    sink, port = start_sink()
    try:
        with tempfile.TemporaryDirectory(prefix="mo-bench-", dir="/tmp") as name:
            Path(name).chmod(0o711)
            measure(Path(name), port, chosen)
    finally:
        sink.terminate()
        sink.wait()


def measure(folder: Path, port: int, chosen: argparse.Namespace) -> None:
    """One round, and its table."""
    from mail_orchestration.installation import open_installation
    from mail_orchestration.single_mailer import SingleMail, submit

    settings = delivery.site(folder, port, chosen)
    notice = folder / "campaigns" / "notice"
    notice.mkdir()
    (notice / "campaign.yaml").write_text(yaml.safe_dump(NOTICE), encoding="utf-8")
    (notice / "message.txt.j2").write_text("Your order {{ order }} is on its way.\n", encoding="utf-8")
    with open_installation(settings, application_name="benchmark") as inst:
        delivery.release(inst)
        with daemon(folder, settings, inst):
            wait_until(inst, "SELECT count(*) > 0 FROM result")
            submitted = 0
            while not is_so(
                inst, "SELECT bool_and(ended_at IS NOT NULL) FROM mail_job WHERE parent_id IS NULL"
            ):
                mail = SingleMail(
                    campaign="notice",
                    to=f"single{submitted}@example.net",
                    attributes={"order": submitted},
                )
                submit(inst, mail)
                submitted += 1
                time.sleep(chosen.every)
            wait_until(inst, "SELECT count(*) = 0 FROM loose_mail")
        tell(inst, chosen, submitted)


@contextmanager
def daemon(folder: Path, settings: Path, inst: Any) -> Iterator[None]:
    """Dagster's daemon on the installation's database, with all sensors on."""
    from mail_orchestration.cli.dagster_home import environment_for_dagster, write_dagster_home

    home = folder / "dagster"
    write_dagster_home(home, code_server_port=1)
    inst.database.ensure_schemas()
    environment = environment_for_dagster(home, settings=settings, database_url=inst.database.url)
    with (folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dagster._daemon", "run"),
                *("--module-name", "schedules.definitions", "--working-directory", str(REPOSITORY)),
            ],
            cwd=REPOSITORY,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the daemon and what it started: the single mailer lingers."""
    import psutil

    started = psutil.Process(process.pid).children(recursive=True)
    for each in (*started, process):
        each.terminate()
    _, alive = psutil.wait_procs(started, timeout=30)
    for each in alive:
        each.kill()
    process.wait()


def is_so(inst: Any, question: str) -> bool:
    with inst.database.begin() as connection:
        return bool(connection.scalar(text(question)))


def wait_until(inst: Any, question: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so(inst, question):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE_S:g} s: {question}")
        time.sleep(0.2)


def tell(inst: Any, chosen: argparse.Namespace, submitted: int) -> None:
    """The table."""
    with inst.database.begin() as connection:
        waited = connection.scalars(
            text(
                "SELECT extract(epoch FROM ended_at - created_at)::float8 FROM delivery_log "
                "WHERE outcome = 'accepted' ORDER BY loose_mail_id"
            )
        ).all()
        bulk = connection.execute(
            text(
                "SELECT count(*) AS mails, extract(epoch FROM max(occurred_at) - min(occurred_at))::float8 AS s "
                "FROM result"
            )
        ).one()
    if len(waited) != submitted:
        raise SystemExit(f"{len(waited)} of {submitted} single mails were accepted")
    print(f"{submitted} single mails, one every {chosen.every:g} s, beside a mail job of {chosen.contacts:,}")
    print("from submit to accepted, by the database's clock:")
    places = statistics.quantiles(waited, n=100, method="inclusive")
    for name, seconds in (
        ("first", waited[0]),
        ("median", statistics.median(waited)),
        ("p95", places[94]),
        ("p99", places[98]),
        ("longest", max(waited)),
    ):
        print(f"  {name:8} {seconds:8.2f} s")
    print(
        f"bulk mail in the same time: {bulk.mails:,} messages in {bulk.s:.1f} s, {bulk.mails / bulk.s:,.0f}/s"
    )


if __name__ == "__main__":
    main()

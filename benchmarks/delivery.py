"""A whole release, delivered with durable results, beside Postfix's own `smtp-source -d` on the same `smtp-sink`.

    python -m benchmarks.delivery --contacts 100000 --connections 50 --rounds 3

Every round makes a release of messages of about 5 KB (import, dedup and assembly are timed for themselves), then one
mailcaster delivers it in a process of its own: claims, reads of stored messages, SMTP, the results log with
`synchronous_commit = on`, heartbeat and progress. `smtp-source -d -s 10` sends as many messages of the same size just
before. The ratio is of the medians. The peak memory of every process of ours is told too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml

from benchmarks.egress_only import start_sink, theirs

HTML = """<html><body><h1>Dear {{ name }}</h1>{% for n in range(paragraphs) %}
<p>This is paragraph {{ n }} for {{ name }}, who is reader number {{ number }} of many. It suffices.</p>{% endfor %}
<p><a href="{{ unsubscribe_url }}">no more of these</a></p></body></html>
"""
TEXT = "Dear {{ name }},\n\nthis is for number {{ number }}.\n\n{{ unsubscribe_url }}\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--contacts", type=int, default=100_000)
    options.add_argument("--connections", type=int, default=50)
    options.add_argument("--sessions", type=int, default=10)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--settings", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.settings:
        shift(chosen.settings)
    else:
        compare(chosen)


def compare(chosen: argparse.Namespace) -> None:
    """The rounds, side by side."""
    rates: dict[str, list[float]] = {"smtp-source": [], "mailcaster": []}
    memory: list[int] = []
    steps: list[dict[str, float]] = []
    sink, port = start_sink()
    with tempfile.TemporaryDirectory(prefix="mo-bench-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        settings = site(Path(name), port, chosen)
        os.environ.pop("DATABASE_URL", None)
        from mail_orchestration.installation import open_installation

        try:
            with open_installation(settings, application_name="benchmark") as inst:
                for _ in range(chosen.rounds):
                    octets, taken = release(inst)
                    steps.append(taken)
                    begun = time.perf_counter()
                    theirs(port, chosen.contacts, octets, chosen.sessions)
                    rates["smtp-source"].append(chosen.contacts / (time.perf_counter() - begun))
                    ran = subprocess.run(
                        [sys.executable, "-m", "benchmarks.delivery", "--settings", str(settings)],
                        check=True,
                        capture_output=True,
                    )
                    told = json.loads(ran.stdout)
                    if told["messages"] != chosen.contacts:
                        raise SystemExit(f"{told['messages']} of {chosen.contacts} messages have a result")
                    rates["mailcaster"].append(told["messages"] / told["seconds"])
                    memory.append(told["peak_megabytes"])
                    steps[-1]["mailcaster_cpu_us_a_message"] = round(told["cpu_microseconds_a_message"], 1)
        finally:
            sink.terminate()
            sink.wait()
    ratio = statistics.median(rates["mailcaster"]) / statistics.median(rates["smtp-source"])
    print(f"mailcaster with durable results / smtp-source = {ratio:.2f} (medians of {chosen.rounds} rounds)")
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        json.dumps(
            {
                "ratio": round(ratio, 3),
                "messages_per_second": rates,
                "octets": octets,
                "mailcaster_peak_megabytes": max(memory),
                "assembler_peak_megabytes": own,
                "largest_child_peak_megabytes": children,
                "seconds_of_steps": steps,
                "contacts": chosen.contacts,
                "connections": chosen.connections,
            },
            default=str,
        )
    )


def release(inst) -> tuple[int, dict[str, float]]:  # type: ignore[no-untyped-def]
    """Import once, then release, resolve, assemble and queue; the messages' mean size and the seconds of each step."""
    from mail_orchestration import broadcast

    taken: dict[str, float] = {}

    def timed(step: str, work):  # type: ignore[no-untyped-def]
        begun = time.perf_counter()
        result = work()
        taken[step] = round(time.perf_counter() - begun, 2)
        return result

    now = datetime.now(UTC)
    timed("import", lambda: broadcast.fill_audience(inst, "everybody", now=now))
    made = broadcast.release_campaign(
        inst, inst.settings.folder / "campaigns" / "letter", now=now, again=True
    )
    timed("dedup", lambda: broadcast.resolve_release(inst, made.release_id, now=now))
    summary = timed("assemble", lambda: broadcast.assemble_release(inst, made.release_id, now=now))
    taken["stored_bytes_a_message"] = round(summary.stored_bytes / summary.messages, 1)
    broadcast.queue_release(inst, made.release_id, now=now)
    return summary.composed_bytes // summary.messages, taken


def shift(settings: Path) -> None:
    """One shift, in this process."""
    from mail_orchestration.installation import open_installation
    from mail_orchestration.mailcaster import run_shift

    with open_installation(settings, application_name="benchmark-mailcaster") as inst:
        summary = run_shift(inst, "m1", stop=threading.Event())
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "messages": summary.messages,
        "seconds": summary.seconds,
        "cpu_microseconds_a_message": 1e6 * (used.ru_utime + used.ru_stime) / max(1, summary.messages),
        "peak_megabytes": used.ru_maxrss // 1024,
    }
    print(json.dumps(told))


def site(folder: Path, port: int, chosen: argparse.Namespace) -> Path:
    """An installation with one mailcaster and one audience of so many contacts."""
    campaign = folder / "campaigns" / "letter"
    campaign.mkdir(parents=True)
    definition = {
        "name": "letter",
        "from": "Post Office <post@example.org>",
        "subject": "A letter to {{ name }}",
        "audiences": ["everybody"],
        "variables": {"paragraphs": 36},
    }
    (campaign / "campaign.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    (campaign / "message.html.j2").write_text(HTML, encoding="utf-8")
    (campaign / "message.txt.j2").write_text(TEXT, encoding="utf-8")
    with (folder / "everybody.csv").open("w", encoding="utf-8") as csv:
        csv.write("email,name,number\n")
        csv.writelines(f"r{n}@example.net,Reader {n},{n}\n" for n in range(1, chosen.contacts + 1))
    settings = {
        "relays": [
            {
                "name": "sink",
                "host": "127.0.0.1",
                "port": port,
                "tls": "none",
                "connections": chosen.connections,
            }
        ],
        "mailcasters": [{"name": "m1", "connections": chosen.connections}],
        "audiences": [{"name": "everybody", "csv": "everybody.csv"}],
    }
    path = folder / "mail_orchestration.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()

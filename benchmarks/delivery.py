"""A whole release, delivered with durable results, beside Postfix's own `smtp-source -d` on the same `smtp-sink`.

    python -m benchmarks.delivery --contacts 100000 --connections 100 --rounds 3

Every round makes a release of messages of about 5 KB, then one mailcaster delivers it in a process of its own: claims,
reads of stored messages, SMTP, the results log with `synchronous_commit = on`, heartbeat and progress. `smtp-source -d
-s 10` sends as many messages of the same size just before. Then the same once more by a mailcaster whose children are
as large as the default allows, as one that works alone may have them: between two children nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness import command_line
from benchmarks.harness.databases import own_folder
from benchmarks.harness.measurements import Measurement, Target
from benchmarks.harness.postfix import sink, smtp_source
from benchmarks.harness.shift import Shift, shifts
from benchmarks.harness.site import addresses, release, write_site
from mail_orchestration.installation import open_installation

LARGE_CHILDREN = 9_999
"""One less than the default's `max_job_size`."""
CHILDREN = {"default": "children of 2,000 or 3 %", "large": "children of 10,000"}
"""The mailcasters, and what they take at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    contacts: int = 100_000
    connections: int = 100
    sessions: int = 10
    rounds: int = 3


def measure(sizes: Sizes) -> list[Measurement]:
    """The rounds, side by side."""
    theirs: dict[str, list[float]] = {name: [] for name in CHILDREN}
    ours: dict[str, list[Shift]] = {name: [] for name in CHILDREN}
    with own_folder() as folder, sink() as port:
        settings = write_site(
            folder,
            port,
            addresses(sizes.contacts),
            connections=sizes.connections,
            mailcasters=tuple(CHILDREN),
            parameters={"large": {"min_job_size": LARGE_CHILDREN}},
        )
        with open_installation(settings, application_name="benchmark") as inst:
            for _ in range(sizes.rounds):
                for name in CHILDREN:
                    made = release(inst)
                    octets = made.composed_octets // made.messages
                    theirs[name].append(
                        smtp_source(port, messages=sizes.contacts, octets=octets, sessions=sizes.sessions)
                    )
                    (shift,) = shifts(settings, (name,))
                    if shift.messages != sizes.contacts:
                        raise SystemExit(f"{shift.messages} of {sizes.contacts} messages have a result")
                    ours[name].append(shift)
    return [
        measurement
        for name, children in CHILDREN.items()
        for measurement in (
            Measurement(
                name=f"delivery of {octets / 1000:.1f} KB with durable results, one mailcaster, {children}",
                unit="messages/s",
                runs=tuple(each.rate for each in ours[name]),
                reference=f"`smtp-source -d -s {sizes.sessions}`",
                reference_runs=tuple(theirs[name]),
                target=Target(at_least=1.0),
                goal=1,
            ),
            Measurement(
                name=f"the mailcaster's CPU for each message, {children}",
                unit="µs",
                runs=tuple(1e6 * each.cpu_seconds / each.messages for each in ours[name]),
                reference="`smtp-source`, wall time for each",
                reference_runs=tuple(1e6 / rate for rate in theirs[name]),
                goal=1,
            ),
        )
    ]


if __name__ == "__main__":
    command_line.run(__doc__, measure, full=Sizes(), quick=Sizes(contacts=3_000, rounds=1))

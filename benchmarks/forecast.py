"""How right a forecast is: the finish time that it names beside the real one, of a release under a relay's limit.

    python -m benchmarks.forecast --contacts 20000 --per-second 400

The fleet is measured first, by a release of a thousand contacts without the limit. Then the release is foreseen and
delivered to Postfix's `smtp-sink`, a limited recipient domain beside the others. Told is real / foreseen; above
or below by more than a tenth the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import yaml

from benchmarks.delivery import site
from benchmarks.egress_only import start_sink

MOST_WRONG = 0.1
SLOW_SHARE = 10
"""One in so many contacts is of the limited domain, whose limit is a little lower than its share of the relay's."""


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--contacts", type=int, default=20_000)
    options.add_argument("--connections", type=int, default=50)
    options.add_argument("--per-second", type=int, default=400)
    chosen = options.parse_args()
    os.environ.pop("DATABASE_URL", None)
    sink, port = start_sink()
    with tempfile.TemporaryDirectory(prefix="mo-bench-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        try:
            foreseen_s, real_s, limited_by = compare(site(Path(name), port, chosen), chosen)
        finally:
            sink.terminate()
            sink.wait()
    ratio = real_s / foreseen_s
    print(
        json.dumps(
            {
                "contacts": chosen.contacts,
                "per_second": chosen.per_second,
                "foreseen_s": round(foreseen_s, 1),
                "real_s": round(real_s, 1),
                "limited_by": limited_by,
                "real/foreseen": round(ratio, 3),
            }
        )
    )
    return 0 if abs(ratio - 1) <= MOST_WRONG else 1


def compare(settings: Path, chosen: argparse.Namespace) -> tuple[float, float, str]:
    """Seconds that were foreseen, seconds that it took, and what held it back most."""
    from mail_orchestration.broadcast import (
        assemble_release,
        fill_audience,
        queue_release,
        release_campaign,
        resolve_release,
    )
    from mail_orchestration.forecasts import forecast_release
    from mail_orchestration.installation import open_installation
    from mail_orchestration.kernel.clock import utc_now
    from mail_orchestration.kernel.settings import load_settings
    from mail_orchestration.mailcaster import run_shift

    everybody = settings.parent / "everybody.csv"
    head, *lines = everybody.read_text().splitlines()
    for number in range(0, len(lines), SLOW_SHARE):
        lines[number] = lines[number].replace("@example.net", "@slow.example")
    with open_installation(settings, application_name="benchmark") as inst:

        def queued() -> int:
            fill_audience(inst, "everybody", now=utc_now(), mode="replace")
            release_id = release_campaign(
                inst, settings.parent / "campaigns" / "letter", now=utc_now(), again=True
            ).release_id
            resolve_release(inst, release_id, now=utc_now())
            assemble_release(inst, release_id, now=utc_now())
            queue_release(inst, release_id)
            return release_id

        everybody.write_text("\n".join([head, *lines[:1000]]) + "\n")
        queued()
        run_shift(inst, "m1", stop=threading.Event())
        everybody.write_text("\n".join([head, *lines]) + "\n")
        release_id = queued()
        document = yaml.safe_load(settings.read_text())
        document["relays"][0]["limits"] = {"per_second": chosen.per_second}
        slow = 0.9 * chosen.per_second / SLOW_SHARE
        document["domains"] = [{"name": "slow.example", "limits": {"per_minute": int(60 * slow)}}]
        settings.write_text(yaml.safe_dump(document))
        limited = replace(inst, settings=load_settings(settings))
        now = utc_now()
        found = forecast_release(limited, release_id, now=now)
        assert found.finish_at is not None
        began = time.monotonic()
        run_shift(limited, "m1", stop=threading.Event())
        took_s = time.monotonic() - began
    return (found.finish_at - now) / timedelta(seconds=1), took_s, found.forecast.limited_by


if __name__ == "__main__":
    raise SystemExit(main())
